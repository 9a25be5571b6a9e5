"""The points of a batch as pods of one Indexed Job, followed from here.

Whether they are made here or by the service of a hub is the place's (``place.py``,
``hub_place.py``). What there is of it is written down in the batch's folder before it is made.
Begun again after a crash, the batch goes on with that job, as long as code and data are what they
were.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flautim_lab.connection import Away
from flautim_lab.errors import ClusterError, RecordsError
from flautim_lab.names import make_run_id
from flautim_lab.records.artifacts import write_atomic
from flautim_lab.records.store import Records
from flautim_lab.records.transfer import put_in
from flautim_lab.runners import service
from flautim_lab.runners.cluster import Cluster
from flautim_lab.runners.content import Content
from flautim_lab.runners.pod_files import unpack_bytes
from flautim_lab.runners.rerun import parcel
from flautim_lab.runners.rerun.folder import BatchFolder, Task
from flautim_lab.runners.rerun.hub_place import HubPlace
from flautim_lab.runners.rerun.place import Facts, OwnPlace, Place, Seen, SeenPod
from flautim_lab.runners.rerun.schedule import Going
from flautim_lab.runners.stamped import DIED, INTERRUPTED, Outcome
from flautim_lab.scratch import scratch_folder

LOOK_SECONDS = 1.0
STATE = "cluster.json"


class ClusterSchedule:
    """Executes points as pods.

    Parameters
    ----------
    folder : BatchFolder
    cluster : Cluster
        Where, and with what; how many at once says ``jobs``, not its workers.
    contents : mapping of str to Content
        What each point depends on, by the name of its file.
    jobs : int
        How many pods at once.
    timeout : float or None
        Seconds that a point may take, once its pod has begun.
    retries : int
        How often one that did not finish is tried again.
    settle : callable
        Called with each point and what came of it.
    watch : callable
        Called once a second with those that are being executed.

    Raises
    ------
    ClusterError
        If there is no cluster, or the current user may not do there what this needs.
    """

    def __init__(
        self,
        folder: BatchFolder,
        cluster: Cluster,
        contents: Mapping[str, Content],
        *,
        jobs: int,
        timeout: float | None,
        retries: int,
        settle: Callable[[Task, Outcome], None],
        watch: Callable[[Sequence[Going]], None],
    ) -> None:
        self._folder, self._contents = folder, contents
        self._jobs, self._timeout, self._tries = jobs, timeout, retries + 1
        self._settle, self._watch = settle, watch
        self._state = folder.path / STATE
        self._going: dict[int, Going] = {}
        self._said: dict[str, str] = {}
        self._in_hub = service.is_at_hand(cluster)
        self._place: Place = HubPlace(cluster) if self._in_hub else OwnPlace(cluster)
        self._place.check()

    def run(self, tasks: Sequence[Task]) -> None:
        """Execute them, and return when all have ended and nothing is left on the cluster."""
        if not tasks:
            self._forget()
            return
        adopted = self._adopt(tasks)
        facts, order = adopted if adopted is not None else self._begin(tasks)
        waiting = {order.index(task.name): task for task in tasks}
        over = threading.Event()
        self._place.follow(facts, self._say, over)
        try:
            self._follow(facts, waiting)
        except BaseException:
            # Those that had not begun stay what they were before.
            for each in self._going.values():
                seconds = time.time() - each.since
                interrupted = Outcome(
                    INTERRUPTED, "it was interrupted", seconds=seconds, started=each.since
                )
                self._settle(each.task, interrupted)
            raise
        finally:
            over.set()
            self._forget()

    # --- what there is on the cluster ---------------------------------------------------------

    def _begin(self, tasks: Sequence[Task]) -> tuple[Facts, list[str]]:
        source = tasks[0].notebook
        contents = [self._contents[task.name] for task in tasks]
        archive = parcel.pack_tasks(source, contents, tasks, self._timeout)
        facts = self._place.plan(make_run_id(f"batch {source.stem}"))
        points = {task.name: _digest(self._contents[task.name]) for task in tasks}
        write_atomic(self._state, json.dumps(facts | {"points": points}, indent=1).encode())
        jobs = min(self._jobs, len(tasks))
        try:
            self._place.make(facts, archive, len(tasks), jobs, self._tries)
        except BaseException:
            # Where that fails too, what there is of it is removed by the next call.
            with contextlib.suppress(ClusterError):
                self._forget()
            raise
        return facts, [task.name for task in tasks]

    def _adopt(self, tasks: Sequence[Task]) -> tuple[Facts, list[str]] | None:
        """Return the job of a call that was cut off, if it does what is asked now."""
        facts = self._read()
        if facts is None:
            return None
        known = facts.pop("points")
        same = all(known.get(task.name) == _digest(self._contents[task.name]) for task in tasks)
        if same and self._place.is_there(facts):
            return facts, list(known)
        self._forget()
        return None

    def _read(self) -> Any:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if ("batch" in state) is not self._in_hub:
            where = "by a hub's service" if "batch" in state else "with a kubeconfig"
            raise ClusterError(
                f"this batch was begun {where} and was cut off; let it end there, or remove "
                f"{self._state}, which names what it left"
            )
        return state

    def _forget(self) -> None:
        """Remove what there is of the batch on the cluster, and then the note about it."""
        state = self._read()
        if state is not None:
            left = self._place.remove(state)
            if left:
                raise ClusterError(
                    f"{', '.join(left)} did not end; flautim-lab doctor --cluster tells of it"
                )
        self._state.unlink(missing_ok=True)

    # --- following ----------------------------------------------------------------------------

    def _follow(self, facts: Facts, waiting: dict[int, Task]) -> None:
        """Take in what ends, until nothing is waited for; ``waiting`` shrinks as it does."""
        from flautim_lab.pods.api import Unreachable

        while waiting:
            try:
                seen = self._place.look(facts)
                if seen.waits:
                    self._say("points", seen.waits)
                found: dict[int, list[SeenPod]] = {}
                for each in seen.pods:
                    found.setdefault(each.index, []).append(each)
                for index in sorted(waiting):
                    outcome = self._look(facts, waiting[index], index, seen, found.get(index, []))
                    if outcome is not None:
                        self._going.pop(index, None)
                        self._settle(waiting.pop(index), outcome)
            except (Unreachable, Away) as error:
                self._say("the cluster", f"{error}; it is asked again")
            self._watch([self._going[index] for index in sorted(self._going)])
            if waiting:
                time.sleep(LOOK_SECONDS)

    def _look(
        self, facts: Facts, task: Task, index: int, seen: Seen, found: Sequence[SeenPod]
    ) -> Outcome | None:
        """Return what came of a point; None while it has not ended."""
        last = found[-1] if found else None
        if last is not None and last.phase == "Running":
            now = self._going.setdefault(index, Going(task, len(found), last.created))
            now.attempt = len(found)
            now.hear(last.told)
        elif index not in seen.finished | seen.failed:
            self._going.pop(index, None)
        if index not in seen.finished | seen.failed and not seen.over:
            return None
        succeeded = [each for each in found if each.phase == "Succeeded"]
        for each in reversed(succeeded or found):
            outcome = self._take(facts, task, each)
            if outcome is not None:
                outcome.attempts = len(found)
                return outcome
        why = (last.trouble if last is not None else "") or seen.over
        return Outcome(
            DIED, why or "its pod is gone, and its result with it", attempts=max(1, len(found)),
            started=last.created if last is not None else time.time(),
        )  # fmt: skip

    def _take(self, facts: Facts, task: Task, pod: SeenPod) -> Outcome | None:
        """Fetch what a pod made, its notebook and its runs; None if it made nothing."""
        packed = self._place.result(facts, pod.name)
        if packed is None:
            return None
        with scratch_folder() as folder:
            try:
                unpack_bytes(packed, folder)
                outcome = Outcome(**json.loads((folder / parcel.OUTCOME).read_text("utf-8")))
            except (OSError, ValueError, TypeError, EOFError) as error:
                return Outcome(DIED, f"its result cannot be read: {error}")
            if (folder / parcel.RESULT).is_file():
                shutil.copyfile(folder / parcel.RESULT, self._folder.running / task.name)
            for place in sorted((folder / parcel.RUNS).glob("*")):
                with contextlib.suppress(RecordsError):
                    put_in(Records.default(), place)
        return outcome

    def _say(self, name: str, sentence: str) -> None:
        """Say what is new about a pod, about all points or about the cluster."""
        if sentence and sentence != self._said.get(name):
            sys.stderr.write(f"{sentence}\n")
        self._said[name] = sentence


def _digest(content: Content) -> str:
    """Return what tells whether a point would still be the same, of what travels with it."""
    return f"{content.code} {content.data}"
