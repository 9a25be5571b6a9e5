"""The ``server`` entry point in a pod: ``python -m flautim_lab.runners.pod_server``.

The same server as in processes (``server.py``), with its records and checkpoints on the run's
volume and its keys in a Secret. When the run has ended it stays until somebody has collected what
is recorded, or for an hour.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from flautim_lab.errors import FlautimError, RecordsError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.event import RunStatus
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.runners import faults
from flautim_lab.runners.pod_api import make_api, read_token
from flautim_lab.runners.pod_files import FOLDER, unpack
from flautim_lab.runners.process_files import ProcessFolder, RunFacts
from flautim_lab.runners.server import serve_run
from flautim_lab.training.engine import SuperLink
from flautim_lab.training.keys import ServerFiles
from flautim_lab.training.listener import Listener
from flautim_lab.training.numerics import make_plan, pick_device

EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's own address; policies say who may reach it
LINGER_SECONDS = 3600.0


class PodFolder(ProcessFolder):
    """The files of a run's server in its pod: keys and certificates are where a Secret puts them.

    Parameters
    ----------
    run_folder : Path
    keys : Path
        With ``authority.pem``, ``server.pem``, ``server.key``, and ``SLOT-1.pub`` of each worker.
    """

    def __init__(self, run_folder: Path, keys: Path) -> None:
        super().__init__(run_folder)
        self.tls = keys
        self.keys = keys
        self._newest: dict[int, tuple[int, bytes]] = {}

    def newest_keys(self) -> dict[int, tuple[int, bytes]]:
        """Return the worker of each slot; read once, as a run's Secret never changes."""
        self._newest = self._newest or super().newest_keys()
        return self._newest


def main() -> int:
    """Serve the run of this pod; returns the exit status."""
    mounts = Mounts.of_pod()
    facts = json.loads((mounts.run / "run.json").read_text(encoding="utf-8"))
    run_id = facts["run_id"]
    os.environ["FLAUTIM_LAB_HOME"] = str(mounts.state)
    records = Records.default()
    folder = PodFolder(records.folder(run_id), mounts.keys)
    planned = facts.pop("faults", [])
    folder.write_facts(RunFacts(**facts))
    files = ServerFiles(
        mounts.keys / "authority.pem", mounts.keys / "server.pem", mounts.keys / "server.key"
    )
    if _record(records, run_id, facts["clients"], mounts, folder):
        for fault in planned:
            faults.plan(folder, faults.from_dict(fault))
    collected = threading.Event()
    recorders: list[Recorder] = []
    api = Listener(
        make_api(
            records,
            run_id,
            folder,
            read_token(mounts.keys / "token"),
            collected,
            lambda: recorders[0] if recorders else None,
        ),
        files,
        EVERYWHERE,
        mounts.api_port,
    )
    if not records.run(run_id).status.over:
        serve_run(
            folder,
            listen=lambda _, tls: SuperLink(tls, EVERYWHERE, mounts.fleet_port),
            in_pod=True,
            ready=recorders.append,
        )
    collected.wait(LINGER_SECONDS)
    api.close()
    return 0


class Mounts:
    """Where a pod finds what it is told; other places in tests.

    Attributes
    ----------
    run, code, keys, state : Path
        Facts, the experiment's archive in parts, keys, and the run's volume.
    fleet_port, api_port : int
    """

    def __init__(
        self, root: Path = Path("/flautim"), fleet_port: int = 9092, api_port: int = 9093
    ) -> None:
        self.run, self.code, self.keys = root / "run", root / "code", root / "keys"
        self.state = root / "state"
        self.fleet_port, self.api_port = fleet_port, api_port

    @classmethod
    def of_pod(cls) -> Mounts:
        """Return the places of this pod; its environment may name others."""
        fleet, api = os.environ.get("FLAUTIM_LAB_PORTS", "9092 9093").split()
        return cls(Path(os.environ.get("FLAUTIM_LAB_MOUNTS", "/flautim")), int(fleet), int(api))


def _record(
    records: Records, run_id: str, clients: int, mounts: Mounts, folder: ProcessFolder
) -> bool:
    """Record the run in the pod's own records, once; an experiment that cannot be loaded fails.

    Returns
    -------
    bool
        Whether this is the run's first server.
    """
    try:
        records.run(run_id)
        return False
    except RecordsError:
        pass
    rounds, plan, trouble = 1, {}, ""
    try:
        experiment = Experiment.load(unpack(mounts.code, folder.run_folder / FOLDER))
        rounds = experiment.rounds
        plan = make_plan(experiment, pick_device(experiment.device)).as_dict()
    except FlautimError as error:
        trouble = str(error)
    records.create_run(
        run_id,
        name=run_id,
        runner="cluster",
        rounds=rounds,
        clients=clients,
        settings={},
        plan=plan,
        detached=True,
    )
    write_atomic(folder.path / "begun", b"")
    if trouble:
        records.set_status(run_id, RunStatus.FAILED, message=trouble)
    return True


if __name__ == "__main__":
    sys.exit(main())
