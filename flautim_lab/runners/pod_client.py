"""The ``client`` entry point in a pod: one worker, which hosts clients and stays warm.

``python -m flautim_lab.runners.pod_client``. Its slot is the index of its pod in the Indexed Job,
behind those of the namespaces before. It ends when the server says that the run has ended, or when
no server is found for a while: nothing stays behind where everything else is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from flautim_lab.errors import ExperimentError, TrainingError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import on_a_volume
from flautim_lab.names import count
from flautim_lab.runners.pod_files import FOLDER, unpack
from flautim_lab.runners.pod_server import Mounts
from flautim_lab.runners.server import TOLD_TO_END
from flautim_lab.scratch import scratch_folder
from flautim_lab.training import flower
from flautim_lab.training.client_app import ClientHost, make_client_app
from flautim_lab.training.engine import Connection
from flautim_lab.training.keys import read_worker_key
from flautim_lab.training.numerics import pick_device
from flautim_lab.training.one_thread import one_thread
from flautim_lab.training.pooling import takes_means
from flautim_lab.training.strategies import client_mods, make_strategy
from flautim_lab.training.worker import Worker

PATIENCE_SECONDS = 300.0  # a server's pod may have to be moved to another node, volume and all
BUG, LOST = 70, 1


def main() -> int:
    """Serve one slot until the run has ended; returns the exit status."""
    mounts = Mounts.of_pod()
    facts = json.loads((mounts.run / "run.json").read_text(encoding="utf-8"))
    slot = int(os.environ["FLAUTIM_LAB_FIRST_SLOT"]) + int(os.environ["JOB_COMPLETION_INDEX"])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    one_thread()
    flower.prepare()
    with scratch_folder() as scratch:
        try:
            experiment = Experiment.load(unpack(mounts.code, scratch / FOLDER))
            check_clients(experiment, facts["clients"])
            host = ClientHost(
                experiment, pick_device(experiment.device), pools=takes_means(experiment)
            )
            app = make_client_app(host, client_mods(make_strategy(experiment)))
        except ExperimentError as error:
            sys.stderr.write(f"{error}\n")
            return BUG
        keys = read_worker_key(mounts.keys / f"{slot}.key")
        earlier: list[Connection] = []

        def connect() -> Connection:
            address = os.environ["FLAUTIM_LAB_SERVER"]
            node = earlier.pop().node if earlier else None
            earlier.append(Connection(address, mounts.keys / "authority.pem", keys, node))
            return earlier[0]

        try:
            prepare = host.cohorts.prepare
            why = host.why if on_a_volume() else None
            worker = Worker(
                app, facts["clients"], stop.is_set, prepare=prepare, why=why, times=host.times
            )
            worker.serve(connect, PATIENCE_SECONDS)
        except TrainingError as error:
            sys.stderr.write(f"{error}\n")
            return LOST
    # Told to end: the pod is moved elsewhere. Only a run that has ended is a success, after which
    # nobody would take this slot again.
    return TOLD_TO_END if stop.is_set() else 0


def check_clients(experiment: Experiment, clients: int) -> None:
    """Refuse to train fewer clients, or others, than the code says that the data's owner read.

    Raises
    ------
    ExperimentError
    """
    if len(experiment.splits) != clients:
        raise ExperimentError(
            f"the run was asked for with {count(clients, 'client')}, and its experiment has "
            f"{len(experiment.splits)}; ask for as many"
        )


if __name__ == "__main__":
    sys.exit(main())
