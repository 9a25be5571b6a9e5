"""The ``client`` entry point: one worker of a run, which hosts clients and stays warm.

Started by the watch, as a fork of its template; ``python -m flautim_lab.runners.client RUN_FOLDER
SLOT GENERATION`` starts one without.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from flautim_lab.experiment.experiment import Experiment
from flautim_lab.runners.faults import is_cut
from flautim_lab.runners.process_files import ProcessFolder
from flautim_lab.runners.watch import guard_watch
from flautim_lab.training import flower
from flautim_lab.training.client_app import ClientHost, make_client_app
from flautim_lab.training.engine import Connection
from flautim_lab.training.keys import read_worker_key
from flautim_lab.training.numerics import pick_device
from flautim_lab.training.pooling import takes_means
from flautim_lab.training.strategies import client_mods, make_strategy
from flautim_lab.training.threads import one_thread
from flautim_lab.training.worker import Worker

PATIENCE_SECONDS = 120.0  # a server that is not back by then does not come back


def main(run_folder: Path, slot: int, generation: int) -> int:
    """Serve one slot until told to stop; returns the exit status."""
    folder = ProcessFolder(run_folder)
    facts = folder.facts()
    folder.announce(f"client-{slot}")
    stop, done = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    guard_watch(folder, done)
    one_thread()
    flower.prepare()
    experiment = Experiment.load(run_folder / "experiment")
    host = ClientHost(experiment, pick_device(experiment.device), pools=takes_means(experiment))
    app = make_client_app(host, client_mods(make_strategy(experiment)))
    keys = read_worker_key(folder.key(slot, generation))

    earlier: list[Connection] = []

    def connect() -> Connection:
        address = f"127.0.0.1:{folder.port()}"
        node = earlier.pop().node if earlier else None
        earlier.append(Connection(address, folder.tls / "authority.pem", keys, node))
        return earlier[0]

    def cut() -> bool:
        return is_cut(folder, f"client-{slot}")

    try:
        prepare = host.cohorts.prepare
        worker = Worker(app, facts.clients, stop.is_set, cut, prepare=prepare, times=host.times)
        worker.serve(connect, PATIENCE_SECONDS)
    finally:
        done.set()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
