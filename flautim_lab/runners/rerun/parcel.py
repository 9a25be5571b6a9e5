"""What travels between a batch and its pods: the notebook and its files there, a result back.

A result comes back in the log of the pod, line by line: a pod holds no credential and reaches
nobody, its log is there when whoever asked for the batch has gone away and come back, and it is
read with the permissions that a run needs anyway.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flautim_lab.errors import NotebookError
from flautim_lab.runners.content import Content
from flautim_lab.runners.pod_files import MOST_BYTES, pack_folder
from flautim_lab.runners.rerun.folder import Task
from flautim_lab.scratch import scratch_folder

ASKED, NOTEBOOK, RESULT = "asked.json", "notebook", "executed.ipynb"
OUTCOME, RUNS = "outcome.json", "runs"
MOST_RESULT_BYTES = 6 * 2**20
"""Of one result: a node keeps 10 MiB of a pod's log by default, and base64 adds a third."""
_LINE_BYTES = 6000  # of a line, before base64: a container's log takes lines of 16 KiB in one piece
TOLD = ("cell", "cells", "round", "rounds")
"""What is told of how far an execution is."""
_PART, _END, _TOLD = "flautim-lab part ", "flautim-lab end ", "flautim-lab told "


def pack_tasks(
    source: Path, contents: Sequence[Content], tasks: Sequence[Task], timeout: float | None
) -> bytes:
    """Return the notebook, what it depends on, and the points, as one archive.

    Raises
    ------
    NotebookError
        If a file is not in the notebook's folder, or all of it is larger than 20 MiB.
    """
    place = source.parent
    names = {name for content in contents for name in (*content.modules, *content.files)}
    with scratch_folder() as folder:
        inside = folder / NOTEBOOK
        inside.mkdir()
        shutil.copyfile(source, inside / source.name)
        for name in sorted(names):
            path = (place / name).resolve()
            if Path(name).is_absolute() or not path.is_relative_to(place.resolve()):
                raise NotebookError(
                    f"{name} is not in the folder of {source.name}, and only what is there travels "
                    "into pods; put it there, and name it from there"
                )
            target = inside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target)
        points = [{"name": t.name, "label": t.label, "parameters": t.point} for t in tasks]
        asked = {"notebook": source.name, "timeout": timeout, "points": points}
        (folder / ASKED).write_text(json.dumps(asked, default=str), encoding="utf-8")
        packed = pack_folder(folder)
    if len(packed) > MOST_BYTES:
        raise NotebookError(
            f"{source.name} and its files are {len(packed) / 2**20:.0f} MiB, and at most "
            f"{MOST_BYTES // 2**20} can travel into pods; let the notebook read less"
        )
    return packed


def result_lines(packed: bytes) -> Iterator[str]:
    """Yield a result as lines of a log."""
    parts = [packed[at : at + _LINE_BYTES] for at in range(0, len(packed), _LINE_BYTES)]
    for number, part in enumerate(parts):
        yield f"{_PART}{number} {base64.b64encode(part).decode('ascii')}"
    yield f"{_END}{len(parts)} {hashlib.sha256(packed).hexdigest()}"


def read_result(log: str) -> bytes | None:
    """Return the result in a log; None where there is none that is whole."""
    parts: dict[int, bytes] = {}
    for line in log.splitlines():
        try:
            if line.startswith(_PART):
                number, text = line.removeprefix(_PART).split(" ")
                parts[int(number)] = base64.b64decode(text, validate=True)
            elif line.startswith(_END):
                total, digest = line.removeprefix(_END).split(" ")
                packed = b"".join(parts[number] for number in range(int(total)))
                if hashlib.sha256(packed).hexdigest() == digest:
                    return packed
        except (ValueError, KeyError):
            continue
    return None


def told_line(told: Mapping[str, Any]) -> str:
    """Return how far an execution is as a line of a log."""
    return f"{_TOLD}{json.dumps(told)}"


def read_told(log: str) -> dict[str, Any]:
    """Return the last thing that was told in a log of how far an execution is."""
    for line in reversed(log.splitlines()):
        if line.startswith(_TOLD):
            try:
                told = json.loads(line.removeprefix(_TOLD))
            except ValueError:
                continue
            # Code of users writes to that log, too.
            known = told if isinstance(told, dict) else {}
            known = {name: known[name] for name in TOLD if isinstance(known.get(name), int)}
            return known if "cells" in known else {}
    return {}
