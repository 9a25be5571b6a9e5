"""From references to what is trained: a dataset, a model's class, an experiment."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flautim_lab.catalog import opening
from flautim_lab.catalog.at_home import at_home, is_on_volume
from flautim_lab.catalog.code import MODEL_FILE
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.made_up import ROWS, made_up_rows
from flautim_lab.catalog.things import MADE_UP, REAL, DatasetVersion, ModelVersion
from flautim_lab.errors import CatalogError, DatasetError, ModelError
from flautim_lab.experiment.bundle_import import import_file
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.experiment.partition import Partition
from flautim_lab.experiment.table import sha256_of
from flautim_lab.home import data_volume, home, private_folder
from flautim_lab.names import choose


def dataset(
    ref: str, *, rows: str = MADE_UP, catalog: Catalog | None = None, **options: Any
) -> Any:
    """Return a dataset of the catalog: by default rows made up to its schema.

    So code can be written against data that one may not see: columns, kinds, ranges and categories
    are the real ones, values are not.

    Parameters
    ----------
    ref : str
        Such as ``"ufmg/telemetry@3"``; without a version the newest one.
    rows : {"made up", "real"}
        ``real`` needs the file on this machine.
    catalog : Catalog, optional
        ``lab.open_catalog()`` by default.
    **options
        As of :class:`CSVDataset`: ``missing="mean"``.

    Returns
    -------
    CSVDataset, or a dataset of the class that was registered with it

    Raises
    ------
    NotFoundError
        If there is no such dataset, or it is not shown to you.
    DatasetError
        If the rows are not here, or have changed since they were registered.
    """
    choose(rows, (MADE_UP, REAL), "kind of rows", DatasetError)
    version = (catalog or opening.open_catalog()).dataset(ref).latest
    if rows == REAL:
        return _made(version, _checked_file(version), options)
    return _made_up(version, options)


def _made_up(version: DatasetVersion, options: dict[str, Any]) -> Any:
    """Return the dataset on rows made up to its schema."""
    frame = made_up_rows(version)
    if not version.class_name:
        return CSVDataset(frame, target=version.target, **{"name": _name(version)} | options)
    folder = private_folder(home() / "made-up")
    path = folder / f"{version.ref.replace('/', '-')}-{version.sha256[:8]}-{ROWS}.csv"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.tmp")
        frame.to_csv(part, index=False)
        part.replace(path)
    return _made(version, path, options)


def model(ref: str, *, catalog: Catalog | None = None) -> type:
    """Return the class of a model of the catalog; its source is executed.

    Raises
    ------
    NotFoundError
        If there is no such model, or it is not shown to you.
    ModelError
        If its source fails.
    """
    version = (catalog or opening.open_catalog()).model(ref)
    return _class(version.source, "model", version.class_name, version.ref)


def saved_experiment(ref: str, *, catalog: Catalog | None = None) -> Experiment:
    """Return an experiment of the catalog, on real rows, ready for ``lab.run``.

    ``lab.run_saved(ref)`` runs it, and lets the catalog know.

    Raises
    ------
    NotFoundError
        If there is no such experiment, or it is not shown to you.
    ExperimentError
        If it cannot be made: a setting, the model, the rows.
    """
    opened = catalog or opening.open_catalog()
    version = opened.experiment(ref)
    data = [opened.dataset(each).latest for each in version.datasets]
    return assemble(data, opened.model(version.model), version.settings, version.name)


def assemble(
    data: Sequence[DatasetVersion],
    net: ModelVersion,
    settings: Mapping[str, Any],
    name: str = "",
    *,
    rows: str = REAL,
) -> Experiment:
    """Return the experiment of datasets' versions, a model's version and settings.

    Several datasets, and one whose rows are on its institution's volume, are a
    :class:`HomeDataset`: each institution trains on its own rows.

    Parameters
    ----------
    data : sequence of DatasetVersion
    net : ModelVersion
    settings : mapping
        As :class:`~flautim_lab.catalog.things.ExperimentVersion` has them; ``on`` is left out.
    name : str, optional
    rows : {"real", "made up"}
        Made-up ones try it out before the data are granted.

    Raises
    ------
    ExperimentError
        If it cannot be made.
    """
    values = {key: value for key, value in settings.items() if key != "on"}
    options = dict(values.pop("dataset_args", {}))
    if len(data) > 1 or is_on_volume(data[0]):
        dataset: Any = at_home(data, options)
        if rows == MADE_UP:
            dataset.root = None
        for each in data if dataset.root is not None else ():
            _checked_file(each)
    elif rows == MADE_UP:
        dataset = _made_up(data[0], options)
    else:
        dataset = _made(data[0], _checked_file(data[0]), options)
    if "partition" in values:
        values["partition"] = Partition.from_settings(values["partition"])
    model = _class(net.source, "model", net.class_name, net.ref)
    return Experiment(dataset, model, **{"name": name} | values)


def _made(version: DatasetVersion, path: Path, options: dict[str, Any]) -> Any:
    """Return the dataset on a file: of its own class, made with the path, or a table."""
    if not version.class_name:
        named = {"name": _name(version)} | options
        return CSVDataset(path, target=version.target, **named)
    made = _class(version.source, "dataset", version.class_name, version.ref)
    try:
        inspect.signature(made).bind(str(path), **options)
    except TypeError as error:
        raise DatasetError(
            f"{version.class_name} of {version.ref} must be made with the path of its file, as in "
            f"{version.class_name}(path); {error}"
        ) from None
    return made(str(path), **options)


def _checked_file(version: DatasetVersion) -> Path:
    path = (data_volume() or Path()) / version.path  # what is absolute stays as it is
    if not path.is_file():
        raise DatasetError(
            f"the rows of {version.ref} are not on this machine ({version.path}); write code "
            f"against made-up ones, lab.dataset({version.ref!r}), and run where they live"
        )
    if version.sha256 and sha256_of(path) != version.sha256:
        raise DatasetError(
            f"{version.path} has changed since {version.ref} was registered; a data owner of "
            f"{version.ref.partition('/')[0]} may restore it, or register it as a new version"
        )
    return path


def _class(source: str, kind: str, name: str, ref: str) -> type:
    digest = hashlib.sha256(source.encode()).hexdigest()
    error: type[CatalogError | ModelError | DatasetError]
    error = ModelError if kind == "model" else DatasetError
    try:
        file = MODEL_FILE if kind == "model" else f"{kind}.py"
        module = import_file(digest, {file: source}, file)
    except MemoryError:
        raise error(f"there is not memory enough to run the source of {ref}") from None
    except Exception as reason:
        raise error(
            f"the source of {ref} fails: {type(reason).__name__}: {reason}; correct it and save a "
            "new version"
        ) from reason
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise error(f"the source of {ref} has no class {name}")
    return found


def _name(version: DatasetVersion) -> str:
    return version.ref.split("/")[-1].split("@")[0]
