"""The ``cluster`` runner: the same server and workers as in processes, as pods on Kubernetes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import ExperimentError
from flautim_lab.names import object_name
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.runners import faults
from flautim_lab.runners.process_files import ProcessFolder, RunFacts

if TYPE_CHECKING:
    from flautim_lab.pods.api import Api
    from flautim_lab.pods.manifests import RunPods

IMAGE_VARIABLE = "FLAUTIM_LAB_IMAGE"
IMAGE = "flautim-lab:0.1.0"
BEGUN = "begun"  # a file that is there once a run's pods were asked for
MOST_WORKERS = 1000  # their public keys go into one Secret, which holds 1 MiB
_CPU = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")
_BYTES = re.compile(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?")
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where and with what a run's pods run: ``lab.run(experiment, on=lab.Cluster(workers=4))``.

    Parameters
    ----------
    workers : int or mapping of str to int
        How many pods train; with a mapping, how many in each namespace. They host the clients, as
        many each as there are. The numbers do not depend on it.
    namespace : str, optional
        Of the server (and of the workers, where they are a number). The kubeconfig's by default.
    context : str, optional
        Of the kubeconfig; its current one by default.
    image : str, optional
        With Flautim Lab in it; ``FLAUTIM_LAB_IMAGE``, or ``flautim-lab:0.1.0``, by default.
    cpu, memory : str
        What each worker gets, as Kubernetes writes it.
    gpu : int
        GPUs of each worker.
    server_cpu, server_memory : str
        What the server gets.
    storage, storage_class : str
        The volume of the checkpoints.
    hours : float
        After which the run is ended, whoever forgot it.
    data : mapping of str to str
        For a :class:`HomeDataset`: the PersistentVolumeClaim of each institution's (namespace's)
        data, which its workers mount read-only.
    fewest_rows : mapping of str to int
        Of such rows: how few of an institution's (namespace's) may be trained on, or validated on,
        together; 10 by default. In a hub each institution says it.
    project : str, optional
        In a hub, the project for which such rows are read, as ``"ufmg/vision"``: the hub knows
        where they are, and whether their owners granted them.
    node_selector, tolerations, priority_class
        As in a pod's own specification.

    Raises
    ------
    ExperimentError
        For a value that cannot be.
    """

    workers: int | Mapping[str, int] = 2
    namespace: str | None = None
    context: str | None = None
    image: str | None = None
    cpu: str = "1"
    memory: str = "1Gi"
    gpu: int = 0
    server_cpu: str = "1"
    server_memory: str = "1Gi"
    storage: str = "1Gi"
    storage_class: str | None = None
    hours: float = 24.0
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    priority_class: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    fewest_rows: Mapping[str, int] = field(default_factory=dict)
    project: str | None = None

    def __post_init__(self) -> None:
        check_workers(self.workers)
        numbers = self.workers if isinstance(self.workers, Mapping) else {"": self.workers}
        for space in [*filter(None, numbers), *([self.namespace] if self.namespace else [])]:
            if not _NAMESPACE.fullmatch(space):
                raise ExperimentError(
                    f"{space!r} cannot be a namespace; use lower-case letters, digits and dashes"
                )
        for space, claim in self.data.items():
            if not isinstance(claim, str) or not _CLAIM.fullmatch(claim):
                raise ExperimentError(
                    f"the data of {space!r} must be the name of a PersistentVolumeClaim, not "
                    f"{claim!r}"
                )
            if space not in numbers:
                raise ExperimentError(
                    f"the data of {space!r} have no worker there; give it one, as in "
                    f'workers={{"{space}": 1}}'
                )
        for space, fewest in self.fewest_rows.items():
            if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 1:
                raise ExperimentError(
                    f"fewest_rows of {space!r} must be a whole number from 1, not {fewest!r}"
                )
        for name in ("cpu", "server_cpu"):
            _check_quantity(name, getattr(self, name), _CPU, "'500m' or '2'")
        for name in ("memory", "server_memory", "storage"):
            _check_quantity(name, getattr(self, name), _BYTES, "'512Mi' or '2Gi'")
        if isinstance(self.gpu, bool) or not isinstance(self.gpu, int) or self.gpu < 0:
            raise ExperimentError(f"gpu must be a whole number from 0, not {self.gpu!r}")
        if not isinstance(self.hours, (int, float)) or not 0 < self.hours <= 24 * 30:
            raise ExperimentError(
                f"hours must be a number above 0 and at most 720, not {self.hours!r}"
            )

    def pods(self, run_id: str, clients: int, namespace: str) -> RunPods:
        """Return what a run's objects are made from.

        Parameters
        ----------
        run_id : str
        clients : int
        namespace : str
            The kubeconfig's, where this names none.
        """
        from flautim_lab.pods.manifests import MOST_WORKERS, Resources, RunPods

        space = self.namespace or namespace
        workers = self.workers
        if not isinstance(workers, Mapping):
            workers = {space: min(workers, clients)}
        if sum(workers.values()) > MOST_WORKERS:
            raise ExperimentError(
                f"workers are {sum(workers.values())} in all, and a run can have at most "
                f"{MOST_WORKERS}; give fewer, each hosts as many clients as there are"
            )
        return RunPods(
            run_id=run_id,
            name=object_name(run_id),
            namespace=space,
            workers=dict(workers),
            clients=clients,
            image=self.image or os.environ.get(IMAGE_VARIABLE) or IMAGE,
            server=Resources(self.server_cpu, self.server_memory),
            worker=Resources(self.cpu, self.memory, self.gpu),
            storage=self.storage,
            storage_class=self.storage_class,
            deadline_seconds=round(self.hours * 3600),
            node_selector=dict(self.node_selector),
            tolerations=[dict(each) for each in self.tolerations],
            priority_class=self.priority_class,
            data=dict(self.data),
            fewest_rows=dict(self.fewest_rows),
        )

    def check_homes(self, homes: Iterable[str]) -> None:
        """Refuse a cluster where some rows that stay at home would have no worker.

        Parameters
        ----------
        homes : iterable of str
            Of a :class:`HomeDataset`.

        Raises
        ------
        ExperimentError
            Naming what to give.
        """
        workers = self.workers if isinstance(self.workers, Mapping) else {}
        for home in homes:
            if home not in workers or home not in self.data:
                raise ExperimentError(
                    f"the rows of {home!r} stay there; give it workers, and say on which volume "
                    f'they are: lab.Cluster(workers={{"{home}": 1}}, data={{"{home}": "CLAIM"}})'
                )


def check_workers(workers: int | Mapping[str, int]) -> None:
    """Refuse numbers of workers that cannot be.

    Raises
    ------
    ExperimentError
        Naming the number.
    """
    numbers = workers if isinstance(workers, Mapping) else {"": workers}
    for space, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            where = f" of {space!r}" if space else ""
            raise ExperimentError(f"workers{where} must be a whole number from 1, not {number!r}")
    if sum(numbers.values()) > MOST_WORKERS:
        raise ExperimentError(
            f"workers may be at most {MOST_WORKERS} in all, not {sum(numbers.values())}; each "
            "hosts as many clients as there are to host"
        )
    if not numbers:
        raise ExperimentError("workers names no namespace; give at least one, or a number")


def _check_quantity(name: str, value: Any, form: re.Pattern[str], examples: str) -> None:
    if not isinstance(value, str) or len(value) > 20 or not form.fullmatch(value):
        shown = value[:20] if isinstance(value, str) else value
        raise ExperimentError(f"{name} must be a quantity such as {examples}, not {shown!r}")
    if not re.search("[1-9]", value):  # to Kubernetes 0 is no limit at all, and counts as nothing
        raise ExperimentError(
            f"{name} must be more than nothing, such as {examples}, not {value!r}"
        )


class ClusterRun:
    """One run's pods, as the kernel and the watch handle them.

    Parameters
    ----------
    run_folder : Path
        The run's folder of artifacts. What a watch needs lies in it until the run has ended.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = ProcessFolder(run_folder)
        self._facts = self.folder.path / "cluster.json"
        self._archive = self.folder.path / "experiment.tar.gz"
        self._begun = self.folder.path / BEGUN

    def prepare(
        self,
        run_id: str,
        archive: bytes,
        clients: int,
        cluster: Cluster,
        homes: Mapping[str, tuple[str, Mapping[str, str]]] = MappingProxyType({}),
    ) -> None:
        """Write what the objects are made from: the experiment, new keys, and the settings.

        Parameters
        ----------
        run_id : str
        archive : bytes
            The experiment, see :func:`flautim_lab.runners.pod_files.pack`.
        clients : int
        cluster : Cluster
        homes : mapping of str to (str, mapping of str to str)
            Of a namespace with data, where a hub's service makes the pods: the institution that it
            is, and the paths on its volume that may be read, with the SHA-256 that they must have
            ("" where it is not known).

        Raises
        ------
        ClusterError
            If there is no cluster, or the current user may not do there what a run needs.
        """
        from flautim_lab.pods.api import Api
        from flautim_lab.training.keys import make_server_files, make_worker_key

        api = Api(cluster.context)
        pods = dataclasses.replace(
            cluster.pods(run_id, clients, api.namespace),
            homes={space: name for space, (name, _) in homes.items()},
            tables={space: list(tables) for space, (_, tables) in homes.items()},
            hashes={
                space: {path: known for path, known in tables.items() if known}
                for space, (_, tables) in homes.items()
            },
        )
        api.check_access(api.spaces(pods))
        self.folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._archive, archive)
        make_server_files(self.folder.tls, [pods.address, "localhost"])
        write_atomic(self.folder.tls / "token", secrets.token_urlsafe(32).encode("ascii"))
        for slot in range(pods.slots):
            key = self.folder.key(slot, 1)
            write_atomic(key.with_suffix(".pub"), make_worker_key(key))
        begin = tuple(pods.taken(pods.workers))
        self.folder.write_facts(RunFacts(pods.run_id, pods.slots, pods.clients, begin=begin))
        facts = {"context": cluster.context, "pods": dataclasses.asdict(pods)}
        write_atomic(self._facts, json.dumps(facts).encode())

    def pods(self) -> RunPods:
        """Return what the objects are made from."""
        from flautim_lab.pods.manifests import RunPods

        return RunPods.from_dict(json.loads(self._facts.read_text(encoding="utf-8"))["pods"])

    def api(self) -> Api:
        """Return a connection to the run's cluster."""
        from flautim_lab.pods.api import Api

        return Api(json.loads(self._facts.read_text(encoding="utf-8"))["context"])

    def make(self, api: Api) -> None:
        """Make the objects; those that are there already stay as they are.

        Raises
        ------
        ClusterError
            If the cluster refuses.
        """
        planned = [dataclasses.asdict(fault) for fault in faults.planned(self.folder)]
        pods = dataclasses.replace(self.pods(), faults=planned)
        tls, keys = self.folder.tls, self.folder.keys
        own = ("authority.pem", "server.pem", "server.key", "token")
        server = {name: (tls / name).read_bytes() for name in own}
        server |= {path.name: path.read_bytes() for path in sorted(keys.glob("*.pub"))}
        workers = {}
        for space, block in pods.blocks.items():
            first = pods.first_slot(space)
            workers[space] = {"authority.pem": server["authority.pem"]} | {
                f"{slot}.key": self.folder.key(slot, 1).read_bytes()
                for slot in range(first, first + block)
            }
        write_atomic(self._begun, b"")
        api.make(pods, self._archive.read_bytes(), server, workers)

    def start(self, about: Mapping[str, Any]) -> None:
        """Make the objects, and start what follows them.

        Parameters
        ----------
        about : mapping
            What is recorded of the run. The pods need none of it, a hub's service would.

        Raises
        ------
        ClusterError
            If the cluster refuses.
        """
        del about
        self.make(self.api())
        self.watch()

    def watch(self) -> None:
        """Start the watch, which follows the run and removes its objects when it has ended."""
        self.folder.start("watch", "flautim_lab.runners.cluster_watch")

    def clean(self) -> None:
        """Remove keys and the archive; nothing secret outlives a run."""
        self.folder.clean()
        self._archive.unlink(missing_ok=True)
