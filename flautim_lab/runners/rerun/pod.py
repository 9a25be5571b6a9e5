"""One point of a batch in a pod: ``python -m flautim_lab.runners.rerun.pod``.

Which one says the index of the pod in its Indexed Job. It is executed as on a machine of one's own
(a hand, a time limit), with records in a folder of the pod; executed notebook, outcome and records
are written to the pod's log, see ``parcel.py``. The exit status is 0 if it finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from flautim_lab.errors import RecordsError
from flautim_lab.records.artifacts import MODEL_FILE
from flautim_lab.records.store import Records
from flautim_lab.records.transfer import FILES, take_out
from flautim_lab.runners.pod_files import pack_folder, unpack
from flautim_lab.runners.pod_server import Mounts
from flautim_lab.runners.rerun import parcel
from flautim_lab.runners.rerun.folder import BatchFolder, Task
from flautim_lab.runners.rerun.schedule import Going, Schedule
from flautim_lab.runners.stamped import FAILED, FINISHED, Outcome, environment
from flautim_lab.scratch import scratch_folder

VERSIONS = ("torch", "flwr", "numpy", "pandas", "flautim-lab")


def main() -> int:
    """Execute the point of this pod; returns the exit status."""
    signal.signal(signal.SIGTERM, _end)
    index = int(os.environ["JOB_COMPLETION_INDEX"])
    with scratch_folder() as scratch:
        os.environ["FLAUTIM_LAB_HOME"] = str(scratch / "home")
        place = unpack(Mounts.of_pod().code, scratch / "asked")
        asked = json.loads((place / parcel.ASKED).read_text(encoding="utf-8"))
        point = asked["points"][index]
        source = place / parcel.NOTEBOOK / asked["notebook"]
        task = Task(source, 1, point["parameters"], point["label"], point["name"])
        folder = BatchFolder(scratch / "batch")
        try:
            with folder.locked():
                outcome = _execute(folder, task, asked["timeout"])
                packed = _result(folder.running / task.name, outcome, scratch / "result")
        except KeyboardInterrupt:  # the pod is to go; another may take its place
            return 1
    for line in parcel.result_lines(packed):
        _say(line)
    # The last words of a pod are told by whoever follows it, long before its result is fetched.
    _say(" ".join(f"{outcome.status} {outcome.error}".split()))
    return 0 if outcome.status == FINISHED else 1


def _execute(folder: BatchFolder, task: Task, timeout: float | None) -> Outcome:
    ended: list[Outcome] = []
    last: list[dict[str, Any]] = [{}]

    def watch(going: Sequence[Going]) -> None:
        for each in going:
            told = {name: getattr(each, name) for name in parcel.TOLD}
            if told != last[0]:
                last[0] = told
                _say(parcel.told_line(told))

    with Schedule(
        folder, jobs=1, timeout=timeout, retries=0,
        settle=lambda _, outcome: ended.append(outcome), watch=watch,
    ) as schedule:  # fmt: skip
        schedule.run([task])
    (outcome,) = ended
    packages = {"python": sys.version.split()[0], **{name: version(name) for name in VERSIONS}}
    outcome.environment = {**environment(), "home": "", "versions": packages}
    return outcome


def _result(executed: Path, outcome: Outcome, folder: Path) -> bytes:
    """Return what came of it as one archive; without weights, or runs, if it is too large."""
    folder.mkdir()
    if executed.is_file():
        shutil.copyfile(executed, folder / parcel.RESULT)
    records = Records.default()
    (folder / parcel.RUNS).mkdir()
    for run_id in outcome.runs:
        with contextlib.suppress(RecordsError):
            take_out(records, run_id, folder / parcel.RUNS)
    for too_much in (None, f"*/{FILES}/{MODEL_FILE}", f"*/{FILES}", "*"):
        for path in (folder / parcel.RUNS).glob(too_much) if too_much else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / parcel.OUTCOME).write_text(json.dumps(dataclasses.asdict(outcome)), "utf-8")
        packed = pack_folder(folder)
        if len(packed) <= parcel.MOST_RESULT_BYTES:
            return packed
    outcome.status, outcome.error = (
        FAILED,
        (
            f"the executed notebook is {len(packed) / 2**20:.0f} MiB, and at most "
            f"{parcel.MOST_RESULT_BYTES // 2**20} can come back from a pod; let its cells show less"
        ),
    )
    (folder / parcel.RESULT).unlink(missing_ok=True)
    (folder / parcel.OUTCOME).write_text(json.dumps(dataclasses.asdict(outcome)), "utf-8")
    return pack_folder(folder)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _end(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
