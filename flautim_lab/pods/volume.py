"""An institution's volume in a pod: what is mounted, what it must be, and what the pod may not do.

Code of a researcher runs where these rows are. What it writes must not come out as words about the
pod, nor as questions to the cluster's name service, which passes them on to anybody's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes import client as k8s

from flautim_lab.experiment.home_dataset import DATA_VARIABLE, FEWEST_VARIABLE, HASHES_VARIABLE

DATA = "/flautim/data"


def mount_data(
    pod: k8s.V1PodTemplateSpec,
    claim: str,
    tables: Sequence[str],
    hashes: Mapping[str, str],
    fewest_rows: int | None = None,
) -> None:
    """Let a pod's only container read an institution's volume, or some of it; nobody writes.

    Parameters
    ----------
    pod : V1PodTemplateSpec
        Changed in place.
    claim : str
    tables : sequence of str
        Paths on the volume; all of it where there are none.
    hashes : mapping of str to str
        What files must be, see ``HASHES_VARIABLE``.
    fewest_rows : int, optional
        How few of its rows may be counted together, where it is not the default.
    """
    source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim, read_only=True)
    pod.spec.volumes.append(k8s.V1Volume(name="data", persistent_volume_claim=source))
    (container,) = pod.spec.containers
    whole: list[tuple[str, str | None]] = [(DATA, None)]
    mounts = [(f"{DATA}/{path}", path) for path in tables] or whole
    container.volume_mounts += [
        k8s.V1VolumeMount(name="data", mount_path=where, sub_path=path, read_only=True)
        for where, path in mounts
    ]
    container.env.append(k8s.V1EnvVar(name=DATA_VARIABLE, value=DATA))
    if hashes:
        told = json.dumps(dict(hashes), sort_keys=True)
        container.env.append(k8s.V1EnvVar(name=HASHES_VARIABLE, value=told))
    if fewest_rows is not None:
        container.env.append(k8s.V1EnvVar(name=FEWEST_VARIABLE, value=str(fewest_rows)))
    # Not the end of its log; what it writes to the file of this policy is not told either.
    container.termination_message_policy = "File"


def know_by_address(pod: k8s.V1PodTemplateSpec, name: str, address: str) -> None:
    """Let a pod know a name without asking the cluster's name service, which it may not reach."""
    pod.spec.host_aliases = [k8s.V1HostAlias(ip=address, hostnames=[name])]


def has_rows(pod: Any) -> bool:
    """Whether a pod, as the cluster gives it, has an institution's rows mounted."""
    return any(
        variable.name == DATA_VARIABLE
        for container in pod.spec.containers
        for variable in container.env or ()
    )
