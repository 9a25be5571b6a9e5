"""An experiment as files: settings as JSON, source as a bundle, a frame as a table. No pickles."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import BundleError, ExperimentError
from flautim_lab.experiment.bundle import Bundle, make_bundle
from flautim_lab.experiment.csv_dataset import CSVDataset
from flautim_lab.experiment.home_dataset import HomeDataset
from flautim_lab.experiment.partition import Partition
from flautim_lab.names import choose

if TYPE_CHECKING:
    from flautim_lab.experiment.experiment import Experiment

FORMAT = 1
#: What :meth:`HomeDataset.settings` writes, and its kind.
_OF_A_HOME = (
    *("kind", "path", "sha256", "rows", "target", "task", "standardize", "missing", "ignore"),
    *("name", "homes", "columns", "root"),
)


def make_bundle_of(experiment: Experiment) -> Bundle:
    """See :meth:`Experiment.bundle`."""
    objects: dict[str, object] = {"model": experiment.model}
    if not isinstance(experiment.dataset, CSVDataset) and experiment.dataset_class is not None:
        objects["dataset"] = experiment.dataset_class
    if _is_subclass(experiment):
        objects["experiment"] = type(experiment)
    if callable(experiment.strategy):
        objects["strategy"] = experiment.strategy
    return make_bundle(objects)


def to_json(experiment: Experiment) -> str:
    """See :meth:`Experiment.to_json`."""
    values: dict[str, Any] = {"format": FORMAT}
    for field in dataclasses.fields(experiment):
        if field.init and field.name not in ("dataset", "model", "partition", "strategy"):
            value = getattr(experiment, field.name)
            values[field.name] = dict(value) if isinstance(value, Mapping) else value
    values["model"] = {"role": "model", "name": experiment.model_name}
    values["partition"] = experiment.partition.settings()
    if isinstance(experiment.dataset, CSVDataset):
        values["dataset"] = {"kind": "csv", **experiment.dataset.settings()}
    elif experiment.dataset_class is not None:
        values["dataset"] = {"kind": "class", "role": "dataset", "name": experiment.info.name}
    else:
        values["dataset"] = {"kind": "object", "name": type(experiment.dataset).__name__}
    if isinstance(experiment.strategy, str):
        values["strategy"] = experiment.strategy
    elif callable(experiment.strategy):
        values["strategy"] = {"kind": "function", "role": "strategy"}
    else:
        values["strategy"] = {"kind": "object", "name": experiment.strategy_name}
    if _is_subclass(experiment):
        values["class"] = {"role": "experiment", "name": type(experiment).__name__}
    for key in ("model_args", "dataset_args", "strategy_args", "optimizer_args"):
        _check_plain(values[key], key)
    try:
        return json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True)
    except TypeError as error:
        raise ExperimentError(
            f"a setting cannot be written as JSON ({error}); "
            "use numbers, text, lists and dicts in the *_args settings"
        ) from error


def from_json(text: str, folder: Path, base: type[Experiment]) -> Experiment:
    """See :meth:`Experiment.from_json`; ``base`` is the class of one without a class of its own."""
    values = json.loads(text)
    if values.pop("format", None) != FORMAT:
        raise ExperimentError(
            f"{folder} holds an experiment of another format; use the release that wrote it"
        )
    bundle = Bundle.read(folder / "bundle")
    maker: Any = bundle.load("experiment") if values.pop("class", None) else base
    data = values.pop("dataset")
    strategy = values.pop("strategy")
    instead = {"dataset": "its class", "strategy": "a function that makes it"}
    for what, reference in (("dataset", data), ("strategy", strategy)):
        if isinstance(reference, dict) and reference["kind"] == "object":
            raise BundleError(
                f"the {what} of this experiment was a live {reference['name']} object, which "
                f"is not kept; give {instead[what]} instead"
            )
    dataset = _read_csv(data, folder) if data["kind"] == "csv" else bundle.load("dataset")
    if isinstance(strategy, dict):
        strategy = bundle.load("strategy")
    values.pop("model")
    partition = Partition.from_settings(values.pop("partition"))
    made: Experiment = maker(
        dataset, bundle.load("model"), partition=partition, strategy=strategy, **values
    )
    return made


def save(experiment: Experiment, folder: Path) -> Path:
    """See :meth:`Experiment.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = experiment.to_json()
    experiment.bundle().write(folder / "bundle")
    if (
        isinstance(experiment.dataset, CSVDataset)
        and experiment.dataset.settings().get("path") is None
    ):
        experiment.dataset.save(folder / "dataset.csv")
    (folder / "experiment.json").write_text(text, encoding="utf-8")
    return folder


def _check_plain(value: Any, where: str) -> None:
    """Refuse what JSON would bring back as something else (a tuple as a list, 1 as "1")."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise BundleError(f"{where} has the key {key!r}, which is no text; use text keys")
            _check_plain(part, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for place, part in enumerate(value):
            _check_plain(part, f"{where}[{place}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        hint = "give a list" if isinstance(value, tuple) else "give numbers, text, lists or dicts"
        raise BundleError(f"{where} is a {type(value).__name__}, which cannot be kept; {hint}")


def _is_subclass(experiment: Experiment) -> bool:
    """Return whether a class of the researcher's own stands between it and ours."""
    return type(experiment).__module__ != "flautim_lab.experiment.experiment"


def check_sent(values: Mapping[str, Any]) -> None:
    """Refuse settings of rows at home that could be read otherwise where they are run.

    They are all there, so that no default of a class of the researcher's own takes their place;
    and the dataset is a table's sample that was sent with them.

    Raises
    ------
    BundleError
        Naming the setting.
    """
    from flautim_lab.experiment.experiment import Experiment

    fields = [field.name for field in dataclasses.fields(Experiment) if field.init]
    missing = [name for name in ("format", *fields) if name not in values]
    if missing:
        raise BundleError(f"its settings lack {missing[0]!r}; make it with Experiment.save")
    dataset = values["dataset"]
    if dataset.get("kind") != "csv":
        raise BundleError("its rows stay at home, and its dataset is no table; use lab.HomeDataset")
    if dataset.get("path") is not None or dataset.get("root") is not None:
        raise BundleError("its rows stay at home, and its sample must be sent with it")
    homes = dataset["homes"]
    pairs = homes if isinstance(homes, list) else [homes]
    if not all(
        isinstance(pair, list) and [type(part) for part in pair] == [str] * 2 for pair in pairs
    ):
        raise BundleError("its homes are no pairs of an institution and a path there")
    for name in dataset:
        choose(name, _OF_A_HOME, "setting of a table at home", BundleError)
    for name in _OF_A_HOME:
        if name not in dataset and name not in ("path", "root"):
            raise BundleError(f"the settings of its dataset lack {name!r}; use lab.HomeDataset")


def _read_csv(reference: dict[str, Any], folder: Path) -> CSVDataset:
    checked = ("kind", "path", "sha256", "rows", "columns")
    values = {k: v for k, v in reference.items() if k not in checked}
    path = reference.get("path") or folder / "dataset.csv"
    if "homes" in values:
        homes = dict(values.pop("homes"))
        dataset: CSVDataset = HomeDataset(path, homes=homes, **values)
    else:
        dataset = CSVDataset(path, **values)
    if dataset.settings()["sha256"] != reference["sha256"]:
        raise ExperimentError(
            f"the table {path} has changed since this experiment was made; "
            "whoever keeps that file may restore it; else make the experiment anew"
        )
    if isinstance(dataset, HomeDataset) and dataset.columns() != reference.get("columns"):
        raise ExperimentError(
            f"the columns of {path} are {', '.join(dataset.columns())}, and those of the "
            f"experiment are {reference.get('columns')}; make the experiment anew"
        )
    return dataset
