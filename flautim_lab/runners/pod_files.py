"""An experiment on its way into pods: one archive, in parts, with the data that it names.

What a pod reads is what a data owner may read: settings, source and table, no pickles.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flautim_lab.errors import BundleError, ExperimentError
from flautim_lab.experiment.archive import check_sent
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import Code
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.home_dataset import check_home_paths
from flautim_lab.runners.plain_archive import read_plain
from flautim_lab.scratch import scratch_folder

MOST_BYTES = 20 * 2**20
MOST_TEXT = 8 * 2**20  # of settings and source: what is made of JSON takes many times as much
MOST_SAMPLE = 16 * 2**20  # of a table of rows that stay elsewhere
#: What reading something else than an archive, or than JSON, raises.
NO_ARCHIVE = (OSError, EOFError, tarfile.TarError, zlib.error, RecursionError)
FOLDER = "experiment"
SETTINGS, INDEX, TABLE = "experiment.json", "bundle/bundle.json", "dataset.csv"
_reading = threading.Lock()  # an archive in memory at a time, whoever sends them


def pack(experiment: Experiment) -> bytes:
    """Return an experiment as a compressed archive; equal experiments give equal bytes.

    A table that lies in a file is put in: pods do not see the researcher's folders.

    Raises
    ------
    BundleError
        If something has no source.
    ExperimentError
        If it is larger than 20 MiB.
    """
    with scratch_folder() as scratch:
        folder = experiment.save(scratch / FOLDER)
        if isinstance(experiment.dataset, CSVDataset):
            settings = folder / SETTINGS
            values = json.loads(settings.read_text(encoding="utf-8"))
            if values["dataset"].pop("path", None) is not None:
                experiment.dataset.save(folder / TABLE)
                values["dataset"]["path"] = None
                settings.write_text(json.dumps(values, indent=1, ensure_ascii=False), "utf-8")
        try:
            packed = pack_folder(folder, tarfile.USTAR_FORMAT)
        except ValueError as error:
            raise BundleError(
                f"a file of the experiment cannot travel into pods: {error}; give its module a "
                "shorter name"
            ) from None
    if len(packed) > MOST_BYTES:
        raise ExperimentError(
            f"the experiment and its data are {len(packed) / 2**20:.0f} MiB, and at most "
            f"{MOST_BYTES // 2**20} can travel into pods; give fewer rows, or a dataset class "
            "that makes or reads its rows there"
        )
    return packed


def pack_folder(folder: Path, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a folder as a compressed archive; equal content gives equal bytes.

    Parameters
    ----------
    folder : Path
    form : int
        One of tarfile's. ``USTAR_FORMAT`` has plain headers alone, and names of up to 100 bytes, or
        255 with their folders; a ValueError tells of a longer one.
    """
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder).as_posix(), False, filter=_plain)
    return gzip.compress(raw.getvalue(), mtime=0)


def unpack_bytes(packed: bytes, folder: Path) -> None:
    """Write what :func:`pack_folder` returned into a folder; nothing outside of it."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed)), mode="r:") as archive:
        archive.extractall(folder, filter="data")


@dataclass(frozen=True)
class Packed:
    """What an archive says, without running anything in it.

    Attributes
    ----------
    code : Code
    settings : mapping
        All of the experiment's.
    homes : mapping of str to str
        Of rows that stay with institutions: the path of each one's table, by its name.
    target : str
        The column of them that is learned.
    sample : bytes
        The table that was given in place of those rows, as CSV; empty where none stay anywhere.
    """

    code: Code
    settings: Mapping[str, Any]
    homes: Mapping[str, str]
    target: str
    sample: bytes = b""


def read_packed(packed: bytes) -> Packed:
    """Read what :func:`pack` returned: the same as a pod will, and nothing that a pod would not.

    Raises
    ------
    ExperimentError
        If it is no such archive, or holds something beside the experiment.
    """
    try:
        with _reading:
            return _read(packed)
    except KeyError as error:
        raise ExperimentError(f"the archive is no experiment: it has no {error}") from None
    except MemoryError:
        raise ExperimentError(
            "the archive needs more memory than the service has; give fewer rows"
        ) from None
    except (TypeError, AttributeError):
        raise ExperimentError(
            "the archive is no experiment: its settings or its index are not as Experiment.save "
            "writes them"
        ) from None
    except (*NO_ARCHIVE, ValueError, BundleError) as error:
        raise ExperimentError(f"the archive is no experiment: {error}") from None


def _read(packed: bytes) -> Packed:
    files = read_plain(packed, (SETTINGS, TABLE), "bundle")
    table = files.pop(TABLE, memoryview(b""))
    if sum(map(len, files.values())) > MOST_TEXT:
        raise ValueError(f"its settings and source are more than {MOST_TEXT // 2**20} MiB")
    texts = {name: str(content, "utf-8") for name, content in files.items()}
    settings = json.loads(texts.pop(SETTINGS))
    index = json.loads(texts.pop(INDEX))
    sources = {name.removeprefix("bundle/"): text for name, text in texts.items()}
    bundle = Bundle(sources, index["references"])
    if index["hash"] != bundle.hash or sorted(index["files"]) != sorted(sources):
        raise ValueError("its source is another than its index says")
    homes = _homes(settings["dataset"])
    if homes:
        check_sent(settings)
    if homes and len(table) > MOST_SAMPLE:
        raise ValueError(f"the sample of its rows is more than {MOST_SAMPLE // 2**20} MiB")
    target = str(settings["dataset"].get("target", ""))
    sample = bytes(table) if homes else b""
    return Packed(Code.of_bundle(bundle, settings), settings, homes, target, sample)


def _homes(dataset: Mapping[str, Any]) -> dict[str, str]:
    """Return where rows stay: what a pod will make of it, and nothing that it would not.

    Raises
    ------
    ValueError
    """
    if "homes" not in dataset:
        return {}
    pairs = dataset["homes"]
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)
        for pair in pairs
    ):
        raise ValueError("its homes are no list of pairs of an institution and a path, as text")
    if len({place for place, _ in pairs}) < len(pairs):
        raise ValueError("it names an institution twice")
    return check_home_paths(dict(pairs))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 0
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def unpack(parts: Path, folder: Path) -> Path:
    """Write the archive whose parts lie in a folder to ``folder``, whole or not at all."""
    if folder.exists():
        return folder
    content = b"".join(path.read_bytes() for path in sorted(parts.glob("part-*")))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent, f".{folder.name}-scratch-") as scratch:
        unpack_bytes(content, scratch)
        os.replace(scratch, folder)
    return folder
