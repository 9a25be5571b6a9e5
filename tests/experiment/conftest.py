"""Notebooks and folders of modules, as bundles are made from them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from flautim_lab.errors import BundleError
from flautim_lab.experiment import source
from flautim_lab.experiment.bundle import make_bundle

ROOT = Path(__file__).parents[2]


class Notebook:
    """IPython's own shell, with a ``__main__`` of its own."""

    def __init__(self) -> None:
        self.main = types.ModuleType("__main__")
        config = Config()
        config.HistoryManager.enabled = False
        self.shell = InteractiveShell(user_module=self.main, config=config)

    def cell(self, text: str) -> None:
        self.shell.run_cell(textwrap.dedent(text).strip("\n"), store_history=True).raise_error()

    def __getitem__(self, name: str) -> Any:
        return vars(self.main)[name]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Notebook]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.setattr(source, "_kept", {})
    yield Notebook()
    InteractiveShell.clear_instance()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Return a function that writes a local module into a folder on the path."""
    place = tmp_path / "project"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    before = set(sys.modules)

    def write(path: str, text: str) -> Path:
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        importlib.invalidate_caches()
        return file

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(place) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


def python(code: str) -> str:
    """Run ``code`` in a fresh Python and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(objects: dict[str, Any]) -> str:
    """Return the message with which a bundle of ``objects`` is refused."""
    with pytest.raises(BundleError) as error:
        make_bundle(objects)
    return str(error.value)


NET = """
class Net(nn.Module):
    # A comment outside any method.

    def __init__(self, features=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())  # olá

    def forward(self, x):
        return activation(self.layers(x))
"""
