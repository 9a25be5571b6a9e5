"""The stamp in an executed notebook: what was executed, with what, and what came of it.

It lies in the notebook's own metadata, under ``flautim_lab``, so that the file alone is enough to
tell whether it must be executed again, and to execute it again. Its entries:

``notebook``
    Name of the notebook that was executed.
``parameters``
    What was set, in the types of the notebook's own cell tagged ``parameters``.
``seed``
    The parameter ``seed``, as it was set or as it stands in the notebook; None without one.
``status``
    ``finished``; ``failed`` (a cell), ``timeout``, ``died`` (the kernel, or its process) or
    ``interrupted`` (Ctrl-C).
``error``
    One sentence, empty when it finished.
``seconds``, ``started``
    How long it took, and when it began (seconds since 1970).
``attempts``
    How often it was tried, in the batch that wrote this.
``runs``
    Ids of the runs it made, oldest first; they are in the records.
``run``
    The one of them that counts; empty without one.
``metrics``
    Of that run (:mod:`flautim_lab.runners.measures`): a name such as
    ``validation_accuracy`` to ``final``, ``best`` and ``best_round``.
``results``
    For each of ``runs``, what :mod:`flautim_lab.runners.verify` compares: ``name``, ``plan``,
    ``curves`` (a name such as ``validation_loss`` to pairs of round and value, over all clients)
    and ``model`` (SHA-256 of the trained weights, empty without any).
``code``, ``modules``
    SHA-256 of the code cells and of the modules of one's own that they import; of each module.
``files``, ``data``
    SHA-256 of each data file that the notebook names, and of all of them together.
``bundle``
    The hash of the bundle of the run that counts; empty without one.
``versions``
    Of Python, and of the packages that the notebook uses.
``environment``
    ``system``, ``machine``, ``host``, ``cores`` and ``home`` (of the records).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flautim_lab.errors import NotebookError
from flautim_lab.records.artifacts import write_atomic

KEY = "flautim_lab"


def stamp(path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
    """Write ``facts`` into the metadata of a notebook, whole or not at all.

    Raises
    ------
    NotebookError
        If it cannot be read as a notebook.
    RecordsError
        If it cannot be written (disk full, permission).
    """
    file = Path(path)
    content = _read(file)
    content["metadata"][KEY] = dict(facts)
    mode = file.stat().st_mode & 0o777
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomic(file, text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(OSError):  # as readable for others as it was
        file.chmod(mode)


def read_stamp(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what :func:`stamp` wrote into a notebook; empty where there is no stamp.

    Raises
    ------
    NotebookError
        If there is no such file, or it cannot be read as a notebook.
    """
    facts = _read(Path(path))["metadata"].get(KEY)
    return facts if isinstance(facts, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    wrong = f"{str(path)!r} cannot be read as a notebook"
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except OSError as error:
        raise NotebookError(f"{wrong}: {error.strerror}") from error
    except ValueError as error:
        raise NotebookError(f"{wrong}: it does not hold the JSON of one") from error
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise NotebookError(f"{wrong}: it does not hold the JSON of one")
    if not isinstance(content.setdefault("metadata", {}), dict):
        raise NotebookError(f"{wrong}: its metadata are no object")
    return content
