"""The tables that a run was let to read, against the sample in their place: before pods are made.

A sample decides how the columns of the real tables are read. One of other kinds would have them
read as what they are not, and what libraries say of that is made of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flautim_lab.catalog.things import Column, DatasetVersion
from flautim_lab.errors import ExperimentError
from flautim_lab.experiment.table import clean, kind_of, read_table
from flautim_lab.runners.pod_files import Packed
from flautim_lab.scratch import scratch_folder

MOST_HEADER = 2**16  # bytes: each column takes its time
NUMBERS = ("number", "integer")
TRUTH = {"True", "False"}


def checked_tables(packed: Packed, read: Iterable[DatasetVersion]) -> dict[str, str]:
    """Return the hash that the table of each home must have ("" where it is not known).

    Parameters
    ----------
    packed : Packed
    read : iterable of DatasetVersion
        What the run was let to read.

    Raises
    ------
    ExperimentError
        If the sample has other columns than was registered, or the run other tables.
    """
    found = {each.ref.partition("/")[0]: each for each in read}
    for home, path in packed.homes.items():
        if home not in found or found[home].path != path:
            raise ExperimentError(
                f"this run was let to read another table of {home} than {path!r}; run the "
                "experiment again"
            )
    kinds = _kinds(packed)
    for home in packed.homes:
        _check_kinds(kinds, found[home])
    return {home: found[home].sha256 for home in packed.homes}


def _kinds(packed: Packed) -> Mapping[str, str]:
    """Return the kind of each column of the sample that is used: number, boolean or text."""
    if b"\n" not in packed.sample[:MOST_HEADER]:
        raise ExperimentError("the sample has no header line, or one that is too long")
    with scratch_folder() as scratch:
        path = scratch / "sample.csv"
        path.write_bytes(packed.sample)
        frame, _ = read_table(path)
    ignored = packed.settings["dataset"].get("ignore") or []
    kinds = {str(name): kind_of(each) for name, each in frame.items() if name not in ignored}
    # Whole numbers where others are expected are no other kind.
    return {name: "number" if kind in NUMBERS else kind for name, kind in kinds.items()}


def _check_kinds(kinds: Mapping[str, str], version: DatasetVersion) -> None:
    registered = {clean(column.name): column for column in version.columns}
    for name, kind in kinds.items():
        if name not in registered:
            raise ExperimentError(
                f"{version.ref} has no column {name!r}, which the sample has; take the sample from "
                "lab.home_dataset, or leave the column out with ignore"
            )
        if kind != _kind(registered[name], kind):
            raise ExperimentError(
                f"the column {name!r} of {version.ref} holds {_word(registered[name].kind)}, and "
                f"that of the sample {_word(kind)}; take the sample from lab.home_dataset"
            )


def _kind(column: Column, sample: str) -> str:
    """Return which kind a sample's column must have."""
    if column.kind in NUMBERS:
        return "number"
    # With gaps true/false is text, and without the rows that have them it is true/false again.
    if column.kind == "text" and set(column.values) <= TRUTH and column.values:
        return "text" if sample == "number" else sample
    return column.kind


def _word(kind: str) -> str:
    return {"boolean": "true or false", "text": "text"}.get(kind, "numbers")
