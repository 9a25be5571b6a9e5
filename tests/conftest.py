"""What every test has: a home of its own, one torch thread, no telemetry."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import pytest
from hypothesis import HealthCheck, settings

from tests.postgresql import new_database, postgresql  # noqa: F401 - fixtures

#: The files that take longest, the longest first. ``make test`` gives whole files to its workers,
#: in this order, so that none is left with a long one at the end.
LONGEST = (
    "notebooks/test_notebooks_run.py",
    "hub_local/test_in_browser.py",
    "chaos/test_kill_matrix.py",
    "runners/test_processes.py",
    "runners/test_pods.py",
    "runners/rerun/test_rerun.py",
    "jupyter/panel/test_in_browser.py",
    "jupyter/test_in_jupyterlab.py",
    "service/test_app.py",
    "runners/rerun/test_on_cluster.py",
    "service/test_dispatch.py",
    "service/test_batches.py",
    "runners/test_chaos.py",
    "jupyter/test_chaos_cell.py",
    "runners/test_scale.py",
    "runners/test_notebook.py",
    "runners/test_verify.py",
    "hub_config/test_jupyterhub_config.py",
    "cli/test_cli.py",
    "training/test_worker_pool.py",
    "service/test_owners.py",
)


# How long an example takes says nothing where other tests run beside it.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; the tests of a file keep their order."""
    here = Path(__file__).parent
    ranks = {here / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later collection of garbage.

    Some of Flower's strategies collect at each aggregation, a second each time in so large a
    process.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records and artifacts of the test go to a folder of its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def unmeasured_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts are measured for coverage only where it says so.

    Measuring slows their start; kernels of notebooks and kills run the same code as other tests.
    """
    if request.node.get_closest_marker("measures_children") is None:
        for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """The other core is busy with other tests."""
    import torch

    torch.set_num_threads(1)
