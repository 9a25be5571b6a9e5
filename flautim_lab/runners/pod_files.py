"""An experiment on its way into pods: one archive, in parts, with the data that it names.

What a pod reads is what a data owner may read: settings, source and table, no pickles.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flautim_lab.errors import BundleError, ExperimentError
from flautim_lab.experiment.archive import check_sent
from flautim_lab.experiment.bundle import Bundle
from flautim_lab.experiment.code import Code
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment

MOST_BYTES = 20 * 2**20
MOST_UNPACKED = 256 * 2**20
#: What reading something else than an archive, or than JSON, raises.
NO_ARCHIVE = (OSError, EOFError, tarfile.TarError, zlib.error, RecursionError)
FOLDER = "experiment"


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
    with tempfile.TemporaryDirectory(prefix="flautim-lab-") as scratch:
        folder = experiment.save(Path(scratch) / FOLDER)
        if isinstance(experiment.dataset, CSVDataset):
            settings = folder / "experiment.json"
            values = json.loads(settings.read_text(encoding="utf-8"))
            if values["dataset"].pop("path", None) is not None:
                experiment.dataset.save(folder / "dataset.csv")
                values["dataset"]["path"] = None
                settings.write_text(json.dumps(values, indent=1, ensure_ascii=False), "utf-8")
        packed = pack_folder(folder)
    if len(packed) > MOST_BYTES:
        raise ExperimentError(
            f"the experiment and its data are {len(packed) / 2**20:.0f} MiB, and at most "
            f"{MOST_BYTES // 2**20} can travel into pods; give fewer rows, or a dataset class "
            "that makes or reads its rows there"
        )
    return packed


def pack_folder(folder: Path) -> bytes:
    """Return a folder as a compressed archive; equal content gives equal bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
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
    """

    code: Code
    settings: Mapping[str, Any]
    homes: Mapping[str, str]
    target: str


def read_packed(packed: bytes) -> Packed:
    """Read what :func:`pack` returned: the same as a pod will, and nothing that a pod would not.

    Raises
    ------
    ExperimentError
        If it is no such archive, or holds something beside the experiment.
    """
    try:
        files = _files(packed)
        settings = json.loads(files.pop("experiment.json"))
        index = json.loads(files.pop("bundle/bundle.json"))
        files.pop("dataset.csv", None)
        sources = {name.removeprefix("bundle/"): text.decode() for name, text in files.items()}
        bundle = Bundle(sources, index["references"])
        if index["hash"] != bundle.hash or sorted(index["files"]) != sorted(sources):
            raise ValueError("its source is another than its index says")
        if settings["dataset"].get("homes"):
            check_sent(settings)
        homes = dict(settings["dataset"].get("homes") or {})
        target = str(settings["dataset"].get("target", ""))
        return Packed(Code.of_bundle(bundle, settings), settings, homes, target)
    except KeyError as error:
        raise ExperimentError(f"the archive is no experiment: it has no {error}") from None
    except (TypeError, AttributeError):
        raise ExperimentError(
            "the archive is no experiment: its settings or its index are not as Experiment.save "
            "writes them"
        ) from None
    except (*NO_ARCHIVE, ValueError, BundleError) as error:
        raise ExperimentError(f"the archive is no experiment: {error}") from None


def _files(packed: bytes) -> dict[str, bytes]:
    """Return the files of an archive by name: each once, and plain ones only.

    What :func:`unpack_bytes` would write twice, or as a link, could be one thing here and another
    in the pod.
    """
    with gzip.open(io.BytesIO(packed)) as stream:
        content = stream.read(MOST_UNPACKED + 1)
    if len(content) > MOST_UNPACKED:
        raise ValueError(f"it holds more than {MOST_UNPACKED // 2**20} MiB")
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            if member.isdir() and PurePosixPath(member.name).parts[:1] == ("bundle",):
                continue
            source = archive.extractfile(member) if member.isreg() else None
            plain = member.name == str(PurePosixPath(member.name)) and member.name not in found
            if source is None or not plain or ".." in PurePosixPath(member.name).parts:
                raise ValueError(f"{member.name!r} cannot be a file of it")
            found[member.name] = source.read()
    return found


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
    scratch = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder.parent))
    try:
        unpack_bytes(content, scratch)
        os.replace(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder
