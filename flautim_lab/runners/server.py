"""The ``server`` entry point: SuperLink, ServerApp and checkpoints of one run, in one process.

Started by the watch, as a fork of its template; ``python -m flautim_lab.runners.server RUN_FOLDER``
starts one without. A server that starts
where a checkpoint lies goes on from it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from flautim_lab.errors import FlautimError, RecordsError, TrainingError
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.records.event import SERVER_BACK, RunStatus
from flautim_lab.records.recorder import Recorder
from flautim_lab.records.store import Records
from flautim_lab.runners.faults import FaultLog, strike_planned
from flautim_lab.runners.keep import keep_model
from flautim_lab.runners.process_files import ProcessFolder, RunFacts
from flautim_lab.runners.watch import guard_watch
from flautim_lab.training import checkpoint, flower
from flautim_lab.training.engine import SuperLink
from flautim_lab.training.grid import summary
from flautim_lab.training.keys import ServerFiles
from flautim_lab.training.numerics import pick_device
from flautim_lab.training.server_app import Server, Stopped, serve
from flautim_lab.training.stackable import choose_engine
from flautim_lab.training.strategies import make_strategy
from flautim_lab.training.threads import one_thread
from flautim_lab.training.usage import RoundUsage
from flautim_lab.training.worker_grid import WorkerGrid

LOOK_SECONDS = 0.1
HEARTBEAT_SECONDS = 1.0


class Roster:
    """Which worker holds each slot: the newest key of the slot, admitted to the SuperLink."""

    def __init__(self, folder: ProcessFolder, link: SuperLink) -> None:
        self._folder = folder
        self._link = link
        self._known: dict[int, tuple[int, int]] = {}
        self._meant: tuple[int, ...] = ()
        self._looked = -LOOK_SECONDS

    def activated(self) -> dict[int, float]:
        """Return when the worker of each slot connected, in seconds since 1970."""
        online = self._link.online()
        return {
            slot: online[node] for slot, (_, node) in list(self._known.items()) if node in online
        }

    def meant(self) -> tuple[int, ...]:
        """Return the slots that are meant to have a worker now, in their order."""
        self._look()
        return self._meant

    def __call__(self) -> dict[int, int]:
        """Return the node of each slot."""
        self._look()
        return {slot: node for slot, (_, node) in self._known.items()}

    def _look(self) -> None:
        """Look at the keys, and at which slots are wanted, if the last look is old."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._meant = self._folder.workers()
            for slot, (generation, public) in self._folder.newest_keys().items():
                known = self._known.get(slot)
                if known is not None and known[0] == generation:
                    continue
                if known is not None:
                    self._link.expel(known[1])
                self._known[slot] = (generation, self._link.admit(public))


GOODBYE_SECONDS = 10.0
TOLD_TO_END = 128 + signal.SIGTERM  # a shell's own status for it


def main(run_folder: Path) -> int:
    """Run the server of one run to its end; returns the exit status."""
    return serve_run(ProcessFolder(run_folder))


def serve_run(
    folder: ProcessFolder,
    *,
    listen: Callable[[ProcessFolder, ServerFiles], SuperLink] | None = None,
    in_pod: bool = False,
    ready: Callable[[Recorder], None] = lambda _recorder: None,
) -> int:
    """Run the server of one run to its end; returns the exit status.

    Parameters
    ----------
    folder : ProcessFolder
        The files of the run's processes.
    listen : callable, optional
        Makes the SuperLink; on the loopback interface by default.
    in_pod : bool
        Who dies is started again by the cluster: there is no watch to be watched, and the workers
        are told when the run has ended.
    ready : callable
        Gets what records the run, before it begins.
    """
    facts = folder.facts()
    folder.announce("server")
    records = Records.default()
    if records.run(facts.run_id).status.over:
        return 0
    recorder = Recorder(records, facts.run_id)
    ready(recorder)
    stop, done = threading.Event(), threading.Event()
    watchers: list[Callable[[], None]] = []
    if in_pod:
        # A pod that is told to end is moved elsewhere; the run is not stopped by it.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(TOLD_TO_END))
    else:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        guard_watch(folder, done)
    pulse = threading.Thread(
        target=_beat, args=(records, facts.run_id, recorder, stop, done, watchers), daemon=True
    )
    pulse.start()
    status, message = RunStatus.FAILED, "the server ended without a reason"
    try:
        one_thread()
        flower.prepare()
        flower.quiet()
        with flower.log_to(lambda line: recorder.log(line, level="warning")):
            status, message = _federate(
                folder, facts, records, recorder, stop, watchers, listen or _listen, in_pod
            )
    except RecordsError as error:
        message = str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run has failed by it
        message = summary(error)
        if not isinstance(error, FlautimError):
            recorder.log(traceback.format_exc(), level="error")
    finally:
        done.set()
        pulse.join()
        recorder.status(status, message)
        recorder.close()
    return 0


def _federate(
    folder: ProcessFolder,
    facts: RunFacts,
    records: Records,
    recorder: Recorder,
    stop: threading.Event,
    watchers: list[Callable[[], None]],
    listen: Callable[[ProcessFolder, ServerFiles], SuperLink],
    dismissing: bool,
) -> tuple[RunStatus, str]:
    experiment = Experiment.load(folder.run_folder / "experiment")
    strategy = make_strategy(experiment)
    engine = choose_engine(experiment, pick_device(experiment.device))
    server = Server(experiment, strategy, recorder, stop.is_set, at_home=bool(facts.places))
    kept = checkpoint.load(folder.checkpoints, strategy)
    if kept is not None:
        server.state = kept
        recorder.log(f"{SERVER_BACK} {kept.round}", round=kept.round)

    def after_round() -> None:
        # First the record, then the checkpoint: a round between the two is done again, and what
        # it records again is stored once.
        recorder.flush()
        checkpoint.save(
            folder.checkpoints,
            server.state,
            strategy,
            midway=lambda: strike_planned(folder, "storing", server.state.round),
        )

    server.usage = RoundUsage("server")
    server.after_round = after_round
    server.moment = functools.partial(strike_planned, folder)
    tls = folder.tls
    files = ServerFiles(tls / "authority.pem", tls / "server.pem", tls / "server.key")
    link = listen(folder, files)
    recorder.status(RunStatus.RUNNING)
    roster = Roster(folder, link)
    earlier = records.events(facts.run_id, kinds=("fault", "recovery"))
    faults = FaultLog(folder, recorder, earlier, roster.activated)
    watchers.append(faults.drain)
    grid = WorkerGrid(
        link,
        facts.slots,
        facts.clients,
        roster,
        stopped=stop.is_set,
        enough=experiment.enough_answers,
        log=recorder.log,
        hosts=_hosts(experiment, facts),
        meant=roster.meant,
        blocks=functools.partial(engine.blocks, experiment),
    )
    grid.heard = faults.heard
    grid.used = lambda slot, used: server.usage.add(f"client-{slot}", used)
    try:
        serve(server, grid)
        faults.drain()
        faults.finish()
    except Stopped:
        return RunStatus.STOPPED, f"stopped after round {server.state.round}"
    finally:
        if server.state.round > 0:
            keep_model(folder.run_folder, experiment, server)
        if dismissing:
            grid.dismiss(GOODBYE_SECONDS)
        link.close()
        faults.drain()
    return RunStatus.FINISHED, server.remark


def _hosts(experiment: Experiment, facts: RunFacts) -> Callable[[int], list[int]] | None:
    """Return which slots may host a client: where its rows are, if they stay somewhere.

    Raises
    ------
    TrainingError
        If no worker is where some client's rows are.
    """
    dataset = experiment.dataset
    if not facts.places or not isinstance(dataset, HomeDataset):
        return None
    at: dict[str, list[int]] = {}
    for slot, place in enumerate(facts.places):
        at.setdefault(place, []).append(slot)
    for place in dataset.homes:
        if place not in at:
            raise TrainingError(f"no worker is at {place!r}, where the rows of a client are")
    clients = facts.clients
    return lambda client: at[dataset.place(client, clients)[0]]


def _listen(folder: ProcessFolder, files: ServerFiles) -> SuperLink:
    """Listen where the last server did, so that workers find this one; else anywhere."""
    try:
        link = SuperLink(files, port=folder.port())
    except OSError:
        link = SuperLink(files)
    folder.write_port(link.port)
    return link


def _beat(
    records: Records,
    run_id: str,
    recorder: Recorder,
    stop: threading.Event,
    done: threading.Event,
    watchers: list[Callable[[], None]],
) -> None:
    last = 0.0
    while not done.wait(LOOK_SECONDS):
        with contextlib.suppress(RecordsError):  # the next look may find them again
            for look in watchers:
                look()
            recorder.tick()
            if time.monotonic() - last >= HEARTBEAT_SECONDS:
                records.heartbeat(run_id)
                last = time.monotonic()
            if records.stop_requested(run_id):
                stop.set()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
