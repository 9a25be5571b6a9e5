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
from pathlib import Path

from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment

MOST_BYTES = 20 * 2**20
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
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        archive.extractall(folder, filter="data")


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
