"""Datasets of the catalog whose rows stay with their institutions: a sample here, rows there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from flautim_lab.catalog import opening
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.made_up import made_up_rows
from flautim_lab.catalog.things import DatasetVersion
from flautim_lab.errors import DatasetError
from flautim_lab.experiment.home_dataset import HomeDataset

ROOT = "/"


def home_dataset(*refs: str, catalog: Catalog | None = None, **settings: Any) -> HomeDataset:
    """Return datasets of several institutions as one, each trained on where it is.

    What is here are rows made up to their schemas. ``lab.run`` on a hub's cluster lets each
    institution's workers read its own table, once the project was granted it.

    Parameters
    ----------
    *refs : str
        Such as ``"ufmg/telemetry"`` and ``"ifnmg/telemetry@2"``: one of each institution.
    catalog : Catalog, optional
        ``lab.open_catalog()`` by default.
    **settings
        As of :class:`CSVDataset`: ``missing="mean"``.

    Raises
    ------
    NotFoundError
        If there is no such dataset, or it is not shown to you.
    DatasetError
        If they do not have the same columns, or their rows are not on volumes.
    """
    if not refs:
        raise DatasetError("say which datasets, such as lab.home_dataset('ufmg/telemetry')")
    opened = catalog or opening.open_catalog()
    made = at_home([opened.dataset(ref).latest for ref in refs], settings)
    for ref, path in zip(refs, made.homes.values(), strict=True):
        if made.root is not None:
            raise DatasetError(
                f"the rows of {ref} are a file of one machine ({ROOT}{path}), and not on its "
                "institution's volume; run a saved experiment on it, with lab.run_saved"
            )
    return made


def is_on_volume(version: DatasetVersion) -> bool:
    """Whether rows are on their institution's volume, and not in a file of this machine."""
    return not PurePosixPath(version.path).is_absolute()


def at_home(versions: Sequence[DatasetVersion], settings: dict[str, Any]) -> HomeDataset:
    """Return some versions of datasets, one of each institution, as one.

    Raises
    ------
    DatasetError
        If they are not alike, or only some are on volumes.
    """
    homes = {version.ref.partition("/")[0]: version.path for version in versions}
    on_volume = {is_on_volume(version) for version in versions}
    if len(homes) < len(versions) or len(on_volume) > 1:
        what = (
            "are of the same institution"
            if len(homes) < len(versions)
            else ("are partly on volumes and partly files of one machine")
        )
        raise DatasetError(f"{_named(versions)} {what}, and cannot be used together")
    first, *others = versions
    for other in others:
        _check_alike(first, other)
    root = None if on_volume == {True} else ROOT
    return HomeDataset(
        _sample(versions),
        target=first.target,
        homes={key: path.removeprefix(ROOT) for key, path in homes.items()},
        root=root,
        **{"name": "-".join(homes)} | settings,
    )


def _named(versions: Sequence[DatasetVersion]) -> str:
    return " and ".join(version.ref for version in versions)


def _check_alike(first: DatasetVersion, other: DatasetVersion) -> None:
    """Refuse two datasets that one model cannot be trained on."""
    both = f"{first.ref} and {other.ref}"
    if first.class_name or other.class_name:
        raise DatasetError(f"{both} have a class of their own, and only plain tables go together")
    if first.target != other.target:
        raise DatasetError(
            f"{both} have different targets ({first.target!r}, {other.target!r}), and one model "
            "learns one"
        )
    ours = {column.name: column.kind == "text" for column in first.columns}
    theirs = {column.name: column.kind == "text" for column in other.columns}
    for name in [*ours, *theirs]:
        if ours.get(name) is not theirs.get(name):
            raise DatasetError(
                f"{both} differ in the column {name!r}: one lacks it, or has text where the other "
                "has numbers; they need the same columns"
            )


def _sample(versions: Sequence[DatasetVersion]) -> pd.DataFrame:
    """Return rows made up to all the schemas: every category of each is in it."""
    frames = [made_up_rows(version) for version in versions]
    columns = list(frames[0].columns)
    return pd.concat([frame[columns] for frame in frames], ignore_index=True)
