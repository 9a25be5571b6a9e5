"""What ``import flautim_lab as lab`` offers, and that each name is documented."""

from __future__ import annotations

import inspect

import pytest

import flautim_lab as lab


def test_the_public_names():
    assert sorted(lab.__all__) == [
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
    assert set(lab.__all__) <= set(dir(lab))


@pytest.mark.parametrize("name", [n for n in lab.__all__ if n != "__version__"])
def test_each_name_is_documented(name):
    assert inspect.getdoc(getattr(lab, name))


def test_errors_of_ours_are_one_family():
    for name in lab.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(lab, name), lab.FlautimError)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(AttributeError, match="no name in flautim_lab named 'Experimnt'; did you m"):
        _ = lab.Experimnt
