"""Flautim Lab: federated learning in a notebook, in PyTorch style, run by Flower.

The path of one experiment, from a cell to its plotted loss, folder by folder:

1. ``experiment/`` - :class:`Experiment` holds a dataset, a model and how it is trained; every
   setting is checked when it is made.
2. ``runners/launch.py`` - :func:`run` writes the run to the records and hands it to a runner;
   ``runners/local.py`` gives it a thread.
3. ``training/`` - Flower's ServerApp drives one of Flower's strategies; ``grid.py`` carries its
   messages to the ClientApp, client by client; ``experiment/loops.py`` trains on a client's rows.
4. ``records/`` - every loss is an event in SQLite.
5. ``jupyter/live_view.py`` and ``plots/`` draw those events while they come.

``import flautim_lab`` is light: a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Experiment": "experiment.experiment",
    "CSVDataset": "experiment.csv_dataset",
    "HomeDataset": "experiment.home_dataset",
    "ask_for_data": "catalog.asking",
    "Cluster": "runners.cluster",
    "evenly": "experiment.partition",
    "by_label": "experiment.partition",
    "by_size": "experiment.partition",
    "by_column": "experiment.partition",
    "Batch": "runners.rerun.batch",
    "panel": "jupyter.panel.shell",
    "open_catalog": "catalog.opening",
    "register_dataset": "catalog.registering",
    "dataset": "catalog.loading",
    "home_dataset": "catalog.at_home",
    "model": "catalog.loading",
    "saved_experiment": "catalog.loading",
    "run_saved": "runners.saved",
    "Run": "runners.run",
    "run": "runners.launch",
    "runs": "runners.launch",
    "attach": "runners.launch",
    "compare": "runners.several",
    "differences": "runners.several",
    "export": "runners.several",
    "verify": "runners.verify",
    "rerun": "runners.rerun.start",
    "resume": "runners.launch",
    "RunStatus": "records.event",
    "FlautimError": "errors",
    "ExperimentError": "errors",
    "DatasetError": "errors",
    "ModelError": "errors",
    "BundleError": "errors",
    "TrainingError": "errors",
    "ClusterError": "errors",
    "RecordsError": "errors",
    "RunNotFoundError": "errors",
    "CatalogError": "errors",
    "CatalogUnavailableError": "errors",
    "NotFoundError": "errors",
    "NotAllowedError": "errors",
    "InUseError": "errors",
    "ConflictError": "errors",
    "NotebookError": "errors",
    "UsageError": "errors",
}

__all__ = [
    "Batch",
    "BundleError",
    "CSVDataset",
    "CatalogError",
    "CatalogUnavailableError",
    "Cluster",
    "ClusterError",
    "ConflictError",
    "DatasetError",
    "Experiment",
    "ExperimentError",
    "FlautimError",
    "HomeDataset",
    "InUseError",
    "ModelError",
    "NotAllowedError",
    "NotFoundError",
    "NotebookError",
    "RecordsError",
    "Run",
    "RunNotFoundError",
    "RunStatus",
    "TrainingError",
    "UsageError",
    "__version__",
    "ask_for_data",
    "attach",
    "by_column",
    "by_label",
    "by_size",
    "compare",
    "dataset",
    "differences",
    "evenly",
    "export",
    "home_dataset",
    "load_ipython_extension",
    "model",
    "open_catalog",
    "panel",
    "register_dataset",
    "rerun",
    "resume",
    "run",
    "run_saved",
    "runs",
    "saved_experiment",
    "verify",
]

if TYPE_CHECKING:
    from flautim_lab.catalog.asking import ask_for_data
    from flautim_lab.catalog.at_home import home_dataset
    from flautim_lab.catalog.loading import dataset, model, saved_experiment
    from flautim_lab.catalog.opening import open_catalog
    from flautim_lab.catalog.registering import register_dataset
    from flautim_lab.errors import (
        BundleError,
        CatalogError,
        CatalogUnavailableError,
        ClusterError,
        ConflictError,
        DatasetError,
        ExperimentError,
        FlautimError,
        InUseError,
        ModelError,
        NotAllowedError,
        NotebookError,
        NotFoundError,
        RecordsError,
        RunNotFoundError,
        TrainingError,
        UsageError,
    )
    from flautim_lab.experiment.csv_dataset import CSVDataset
    from flautim_lab.experiment.experiment import Experiment
    from flautim_lab.experiment.home_dataset import HomeDataset
    from flautim_lab.experiment.partition import by_column, by_label, by_size, evenly
    from flautim_lab.jupyter.panel.shell import panel
    from flautim_lab.records.event import RunStatus
    from flautim_lab.runners.cluster import Cluster
    from flautim_lab.runners.launch import attach, resume, run, runs
    from flautim_lab.runners.rerun.batch import Batch
    from flautim_lab.runners.rerun.start import rerun
    from flautim_lab.runners.run import Run
    from flautim_lab.runners.saved import run_saved
    from flautim_lab.runners.several import compare, differences, export
    from flautim_lab.runners.verify import verify


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"flautim_lab.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    from flautim_lab.names import unknown

    raise AttributeError(unknown(name, __all__, "name in flautim_lab"))


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext flautim_lab``: the magics, and live views of runs."""
    from flautim_lab.jupyter.magics import load_ipython_extension as load

    load(ipython)


def _register_views() -> None:
    """In a notebook, show runs live. IPython is asked only if it is already running."""
    if "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        if shell is not None:
            from flautim_lab.jupyter import register

            register(shell)


_register_views()
