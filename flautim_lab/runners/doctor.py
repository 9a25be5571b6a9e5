"""What can run on this machine, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Literal

from packaging.requirements import Requirement

from flautim_lab.errors import ClusterError, RecordsError
from flautim_lab.home import home
from flautim_lab.names import count
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records
from flautim_lab.runners.leftovers import reap_leftovers

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LITTLE_SPACE = 500 * 2**20  # bytes; a run of a small model leaves well under one MB
CLUSTER_SECONDS = 3.0
SHOWN_RUNS = 5


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    state : {"ok", "missing", "problem"}
        ``missing`` is something that experiments do without; a ``problem`` stops them.
    found : str
        What is there.
    advice : str
        What to do about it, or "".
    """

    name: str
    state: Literal["ok", "missing", "problem"]
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Look at everything that matters to experiments, to the notebooks and to the tests."""
    return [
        _python(),
        *_dependencies(),
        _torch(),
        _optional("jupyterlab", "pip install 'flautim-lab[lab]'; it is what `make lab` opens"),
        _chromium(),
        *_cluster(),
        *_records(),
    ]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _dependencies() -> Iterator[Check]:
    """Compare what is installed with the ranges that this release states."""
    try:
        stated = [Requirement(text) for text in requires("flautim-lab") or []]
    except PackageNotFoundError:
        yield Check(
            "flautim-lab", "problem", "not installed", "pip install -e . in its source folder"
        )
        return
    needed = [one for one in stated if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [(one, _installed(one.name)) for one in needed]
    wrong = [(one, found) for one, found in wrong if not one.specifier.contains(found or "0")]
    yield Check("flautim-lab", "ok", version("flautim-lab"))
    for one in needed:
        # Those that decide most: Flower is supported minor by minor.
        if one.name in ("flwr", "papermill", "ipywidgets") and one not in [w for w, _ in wrong]:
            yield Check(one.name, "ok", f"{_installed(one.name)} ({one.specifier} is supported)")
    for one, found in wrong:
        yield Check(
            one.name,
            "problem",
            f"{found or 'not installed'} ({one.specifier} is supported)",
            f"pip install '{one.name}{one.specifier}'",
        )


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", "problem", f"cannot be loaded: {error}", "pip install torch")
    found = f"{torch.__version__}, {count(torch.get_num_threads(), 'thread')}"
    if torch.cuda.is_available():
        cards = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return Check("torch", "ok", f"{found}, CUDA: {', '.join(sorted(cards))}")
    return Check("torch", "ok", f"{found}, no CUDA: clients train on the CPU")


def _optional(package: str, advice: str) -> Check:
    found = _installed(package)
    if found is None:
        return Check(package, "missing", "not installed", advice)
    return Check(package, "ok", found)


def _chromium() -> Check:
    for name in CHROMIUM:
        if path := shutil.which(name):
            return Check("chromium", "ok", path)
    advice = "only the browser tests need it (on Debian and Ubuntu: apt install chromium)"
    return Check("chromium", "missing", "not installed", advice)


def _cluster() -> Iterator[Check]:
    yield _optional("kubernetes", "pip install 'flautim-lab[cluster]'; for runs on='cluster'")
    if find_spec("kubernetes") is None:
        return
    from flautim_lab.pods.api import Api

    try:
        api = Api()
        version = api.version(CLUSTER_SECONDS)
        lacking = api.denied(api.namespace)
    except ClusterError as error:
        yield Check("cluster", "missing", str(error), "runs on='cluster' need one")
        return
    found = f"Kubernetes {version}, namespace {api.namespace}"
    if lacking:
        advice = "ask who runs it for the role flautim-lab-runs in that namespace"
        yield Check("cluster", "missing", f"{found}: you may not {', '.join(lacking)}", advice)
        return
    yield Check("cluster", "ok", found)


def _records() -> Iterator[Check]:
    try:
        folder = home()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except RecordsError as error:
        yield Check("home", "problem", str(error), "set FLAUTIM_LAB_HOME to a folder of yours")
        return
    except OSError as error:
        yield Check(
            "home",
            "problem",
            f"{home()} cannot be written to: {error.strerror}",
            "set FLAUTIM_LAB_HOME to a folder that you may write to",
        )
        return
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < LITTLE_SPACE:
        yield Check("home", "problem", found, "free some space there, or move FLAUTIM_LAB_HOME")
    else:
        yield Check("home", "ok", found)
    try:
        records = Records.default()
        runs = records.runs()
    except RecordsError as error:
        yield Check("records", "problem", str(error), "move that file away, or mend it")
        return
    yield Check("records", "ok", f"{records.where}, {count(len(runs), 'run')}")
    died = [run.id for run in runs if run.status is RunStatus.INTERRUPTED]
    if died:
        more = f" and {len(died) - SHOWN_RUNS} more" if len(died) > SHOWN_RUNS else ""
        yield Check(
            "interrupted runs",
            "ok",
            f"{', '.join(died[:SHOWN_RUNS])}{more}",
            "their process ended before they did; what they recorded is kept",
        )
    reaped = reap_leftovers(records, folder / "runs")
    if reaped:
        yield Check(
            "leftovers",
            "ok",
            f"of {', '.join(reaped)}",
            "their processes and keys were still there, and are gone now",
        )
    cores = os.cpu_count() or 1
    yield Check("runner local", "ok", f"experiments can run here, on {count(cores, 'core')}")
    yield Check("runner processes", "ok", "the same, in processes that outlive the kernel")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
