"""The file of hyperparameters of an experiment: ``.py``, ``.toml``, ``.yaml`` or ``.json``.

Its names are those of :class:`~flautim_lab.experiment.experiment.Experiment`. Of a ``.py`` the
assignments of plain values are taken (``rounds = 5``, ``LR = 0.01``); it is never run.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from flautim_lab.catalog.sources import parse
from flautim_lab.errors import CatalogError
from flautim_lab.names import choose

SUFFIXES = (".py", ".toml", ".yaml", ".yml", ".json")
#: Of the settings of an experiment, those that a file may give; and ``on``, the runner.
SETTINGS = (
    "clients",
    "partition",
    "strategy",
    "strategy_args",
    "rounds",
    "local_epochs",
    "batch_size",
    "optimizer",
    "optimizer_args",
    "lr",
    "seed",
    "clients_per_round",
    "min_clients",
    "round_timeout_seconds",
    "validation",
    "evaluate_every",
    "device",
    "engine",
    "model_args",
    "dataset_args",
    "task",
    "on",
)
SYNONYMS = {"epochs": "local_epochs", "learning_rate": "lr", "num_rounds": "rounds"}


def read_hyperparameters(file: str, text: str) -> dict[str, Any]:
    """Return the settings that a file of hyperparameters gives.

    Parameters
    ----------
    file : str
        Its name; its ending says what it is.
    text : str
        What is in it.

    Raises
    ------
    CatalogError
        If it cannot be read, or names a setting that there is not.
    """
    values: dict[str, Any] = {}
    for name, value in _read(file, text).items():
        known = SYNONYMS.get(str(name).lower(), str(name).lower())
        values[choose(known, SETTINGS, f"setting (in {file})", CatalogError)] = value
    if isinstance(values.get("partition"), str):
        values["partition"] = {"kind": values["partition"]}
    return values


def _read(file: str, text: str) -> Mapping[str, Any]:
    suffix = PurePath(file).suffix.lower()
    if suffix == ".py":
        return _assignments(parse(text, file), file)
    try:
        if suffix == ".toml":
            found: Any = tomllib.loads(text)
        elif suffix in (".yaml", ".yml"):
            found = yaml.safe_load(text)
        elif suffix == ".json":
            found = json.loads(text)
        else:
            raise CatalogError(
                f"{file} is no file of hyperparameters; its name must end in {', '.join(SUFFIXES)}"
            )
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise CatalogError(f"{file} cannot be read as {suffix[1:].upper()}: {said}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CatalogError(f"{file} must hold names and values, such as rounds and 5")
    return found


def _assignments(tree: ast.Module, file: str) -> dict[str, Any]:
    """Return what is assigned at the top of a file; what is no plain value is refused."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets: list[ast.expr] = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue  # imports, a docstring, functions: not ours to run
        for target in targets:
            if not isinstance(target, ast.Name) or node.value is None:
                raise CatalogError(
                    f"{file}, line {node.lineno}: write one name a line, such as rounds = 5"
                )
            try:
                found[target.id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                raise CatalogError(
                    f"{file}, line {node.lineno}: {target.id} is no plain value; the file is read "
                    "and not run, so write numbers, text, lists and dicts"
                ) from None
    return found
