"""Namespaces of institutions: made with what belongs in them, and removed once nothing is in them.

What an institution's namespace has (quota, limits, policies, bindings, maybe a volume for its
data) is a file that who runs the hub writes: ``k8s/components/namespaces/institution.yaml``, and
beside it for one institution ``KEY.yaml``, with what it has in place of that. A changed quota or
limit reaches namespaces that are there; of the rest they keep what they were made with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client as k8s

from flautim_lab.errors import ClusterError, UsageError
from flautim_lab.pods.access import Permission
from flautim_lab.pods.manifests import RUN_LABEL
from flautim_lab.pods.refusals import refusals

INSTITUTION_LABEL = "flautim-lab/institution"
#: On namespaces that are a service's to remove: in which namespace it is. No other is ever touched.
MADE_LABEL = "flautim-lab/made-by"
STANDARD = {"pod-security.kubernetes.io/enforce": "restricted"}
LONGEST = 63  # characters of a namespace's name
MOST_NAMED = 3  # things that keep a namespace from being removed, in a sentence

#: What the service needs beside ``access.PERMISSIONS``, everywhere on the cluster: a ClusterRole.
#: "bind" is for two ClusterRoles by name, whose bindings these are.
PERMISSIONS = (
    Permission("", "namespaces", ("create", "get", "list", "delete")),
    Permission("", "resourcequotas", ("create", "patch")),
    Permission("", "limitranges", ("create", "patch")),
    Permission("networking.k8s.io", "networkpolicies", ("create",)),
    Permission("rbac.authorization.k8s.io", "rolebindings", ("create",)),
    Permission("rbac.authorization.k8s.io", "clusterroles", ("bind",)),
)

#: Made last: the service may do so by the role of runs, which a binding gives it there.
CLAIM = "PersistentVolumeClaim"
BINDING_PAUSES = (0.2, 0.4, 0.8, 1.6)  # seconds until one that was made a moment ago is known

_MAKERS: Mapping[str, tuple[type, str]] = {
    "ResourceQuota": (k8s.CoreV1Api, "create_namespaced_resource_quota"),
    "LimitRange": (k8s.CoreV1Api, "create_namespaced_limit_range"),
    "NetworkPolicy": (k8s.NetworkingV1Api, "create_namespaced_network_policy"),
    "RoleBinding": (k8s.RbacAuthorizationV1Api, "create_namespaced_role_binding"),
    CLAIM: (k8s.CoreV1Api, "create_namespaced_persistent_volume_claim"),
}
#: Of which kinds a change reaches what is there. A binding, or a policy, is made once: who may
#: change one in all of these namespaces could let anybody in.
_CHANGED: Mapping[str, str] = {
    "ResourceQuota": "patch_namespaced_resource_quota",
    "LimitRange": "patch_namespaced_limit_range",
}
Objects = Sequence[Mapping[str, Any]]


def objects_of(path: Path, institution: str) -> Objects:
    """Return what an institution's namespace is to have now: manifests without a namespace.

    Parameters
    ----------
    path : Path
        What all have.
    institution : str
        The key of one, whose own file beside it says what it has instead, by kind and name.

    Raises
    ------
    UsageError
        If a file cannot be read, or has something of another kind in it.
    """
    own = path.with_name(f"{institution}.yaml")
    found = [*read_objects(path), *(read_objects(own) if own.exists() else ())]
    return list({(each["kind"], each["metadata"]["name"]): each for each in found}.values())


def read_objects(path: Path) -> Objects:
    """Read a file of manifests.

    Raises
    ------
    UsageError
        If it cannot be read, or has something of another kind in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _no_manifests(path, error) from error
    return _parsed(path, text)


@lru_cache(maxsize=256)  # they are asked for each turn, and change once in a while
def _parsed(path: Path, text: str) -> Objects:
    try:
        told = [each for each in yaml.safe_load_all(text) if each]
        kinds = [str(each["kind"]) for each in told]
        names = [str(each["metadata"]["name"]) for each in told]
    except (ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise _no_manifests(path, error) from error
    other = next((kind for kind in kinds if kind not in _MAKERS), None)
    if other is not None:
        raise UsageError(
            f"{path} has a {other} ({names[kinds.index(other)]}); an institution's namespace may "
            f"be given: {', '.join(_MAKERS)}"
        )
    return told


def check_claim(path: Path, told: Objects, claim: str) -> None:
    """Refuse the name of a claim, of an institution's data, that its namespace is not given.

    Raises
    ------
    UsageError
    """
    names = [each["metadata"]["name"] for each in told if each["kind"] == CLAIM]
    if claim and claim not in names:
        raise UsageError(
            f"the data of institutions are to be in the claim {claim!r} of their namespaces, and "
            f"{path} has {', '.join(names) or 'no claim'}; write it there, or name it as there"
        )


def _no_manifests(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} has no manifests for an institution's namespace: {type(error).__name__}: {error}"
    )


class Namespaces:
    """The namespaces that a service makes.

    Parameters
    ----------
    client : kubernetes.client.ApiClient
    maker : str
        The namespace of the service: two hubs on a cluster leave each other's alone.
    """

    def __init__(self, client: k8s.ApiClient, maker: str) -> None:
        self._client, self._maker = client, maker
        self._core = k8s.CoreV1Api(client)

    def made(self) -> dict[str, str]:
        """Return the institution's key of each that the service made and that is not going.

        Raises
        ------
        ClusterError
        """
        with refusals("list namespaces"):
            listed = self._core.list_namespace(label_selector=f"{MADE_LABEL}={self._maker}").items
        return {
            each.metadata.name: (each.metadata.labels or {}).get(INSTITUTION_LABEL, "")
            for each in listed
            if self._ours(each) and each.metadata.deletion_timestamp is None
        }

    def make(self, name: str, institution: str, objects: Objects) -> None:
        """Make one with all that it has; of what is there already quota and limits are changed.

        Parameters
        ----------
        name, institution : str
            Of the namespace, and the key of whose it is.
        objects : sequence of mapping
            What it has, see :func:`objects_of`.

        Raises
        ------
        ClusterError
            If the cluster refuses, or a namespace of that name is not this institution's.
        """
        labels = {INSTITUTION_LABEL: institution, MADE_LABEL: self._maker} | STANDARD
        metadata = k8s.V1ObjectMeta(name=name, labels=labels)
        body = k8s.V1Namespace(api_version="v1", kind="Namespace", metadata=metadata)
        with refusals(f"create Namespace {name}"):
            create_once(lambda: self._core.create_namespace(body))
            there = self._core.read_namespace(name)
        if not self._ours(there) or there.metadata.labels.get(INSTITUTION_LABEL) != institution:
            raise ClusterError(
                f"the namespace {name} is there already and was not made for {institution}; "
                "rename the institution's key, or put the institution on the hub's list with a "
                "namespace of its own"
            )
        if there.metadata.deletion_timestamp is not None:
            raise ClusterError(f"the namespace {name} is still being removed; it is made again")
        for told in sorted(objects, key=lambda each: each["kind"] == CLAIM):
            self._give(name, told)

    def _give(self, space: str, told: Mapping[str, Any]) -> None:
        """Make one of a namespace's objects, or change it, where a change reaches what is there."""
        kind, name = told["kind"], told["metadata"]["name"]
        api, call = _MAKERS[kind]
        called = api(self._client)
        try:
            with refusals(f"create {kind} {name} in {space}"):
                make = partial(getattr(called, call), space, told)
                new = create_once(make, BINDING_PAUSES if kind == CLAIM else ())
        except ValueError as error:  # of the client, which knows what each kind may have
            raise UsageError(
                f"the {kind} {name} for {space} is written wrong, in the manifests that the "
                f"service reads: {' '.join(str(error).split())}"
            ) from error
        if not new and kind in _CHANGED:
            whole = [{"op": "add", "path": "/spec", "value": told.get("spec") or {}}]
            with refusals(f"change {kind} {name} in {space}"):
                getattr(called, _CHANGED[kind])(name, space, whole)

    def inside(self, name: str) -> list[str]:
        """Return what keeps a namespace from being removed: pods, volumes, and what runs left.

        Raises
        ------
        ClusterError
        """
        batch = k8s.BatchV1Api(self._client)
        core = self._core
        found = []
        with refusals(f"see what is in {name}"):
            for kind, listed in (
                ("pod", core.list_namespaced_pod(name)),
                ("volume", core.list_namespaced_persistent_volume_claim(name)),
                ("job", batch.list_namespaced_job(name)),
                ("run", core.list_namespaced_config_map(name, label_selector=RUN_LABEL)),
            ):
                found += [
                    f"{kind} {each.metadata.name}"
                    for each in listed.items
                    if kind != "run" or RUN_LABEL in (each.metadata.labels or {})
                ]
        return found

    def remove(self, name: str) -> list[str]:
        """Remove one of ours, if nothing is in it; returns what is.

        Raises
        ------
        ClusterError
            If the cluster refuses, or it is not ours.
        """
        with refusals(f"read Namespace {name}"):
            there = self._core.read_namespace(name)
        if not self._ours(there):
            raise ClusterError(f"the namespace {name} was not made by the service, and stays")
        if left := self.inside(name):
            return left
        # This one, and none that was made under the same name meanwhile.
        this = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=there.metadata.uid))
        with refusals(f"delete Namespace {name}"):
            self._core.delete_namespace(name, body=this)
        return []

    def _ours(self, namespace: Any) -> bool:
        return (namespace.metadata.labels or {}).get(MADE_LABEL) == self._maker


def in_words(left: Sequence[str]) -> str:
    """Return what is in a namespace as part of a sentence."""
    more = len(left) - MOST_NAMED
    return ", ".join(left[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def create_once(make: Callable[[], Any], pauses: Sequence[float] = ()) -> bool:
    """Make something; returns False where it is there: an earlier turn made it.

    After each of the pauses (seconds) what was forbidden is tried again.
    """
    for pause in (*pauses, None):
        try:
            make()
        except k8s.ApiException as error:
            if error.status == 409:
                return False
            if error.status != 403 or pause is None:
                raise
            time.sleep(pause)
        else:
            break
    return True
