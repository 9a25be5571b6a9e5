"""What local modules, packages and scripts become in a bundle."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flautim_lab.experiment.bundle import Bundle, make_bundle
from tests.experiment.conftest import ROOT, Notebook, refused


def test_local_modules_are_copied_with_what_they_import(folder: Callable[..., Path]) -> None:
    folder("shapes/__init__.py", '"""Shapes."""')
    folder(
        "shapes/nets.py",
        """
        from torch import nn
        from . import sizes
        import shapes.names as n

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                import later
                self.size = sizes.SIZE, n.NAME, later.LATER
        """,
    )
    folder("shapes/sizes.py", "SIZE = 3")
    folder("shapes/names.py", "NAME = 'olá'")
    folder("shapes/unused.py", "raise RuntimeError")
    folder("later.py", "LATER = 1")
    nets = importlib.import_module("shapes.nets")
    bundle = make_bundle({"model": nets.Net})
    assert bundle.references == {"model": "shapes/nets.py:Net"}
    assert list(bundle.files) == [
        "later.py",
        "shapes/__init__.py",
        "shapes/names.py",
        "shapes/nets.py",
        "shapes/sizes.py",
    ]
    loaded = bundle.load("model")
    assert loaded is not nets.Net
    before = sys.path.copy()
    assert loaded().size == (3, "olá", 1)
    assert sys.path == before
    assert "later" not in sys.modules
    assert sys.modules["shapes.nets"] is nets


def test_cells_may_use_local_modules(notebook: Notebook, folder: Callable[..., Path]) -> None:
    folder("tools/__init__.py", "")
    folder(
        "tools/deep.py", "import io\nDATA = io.StringIO('kept by its file')\ndef f():\n    return 1"
    )
    folder("other.py", "class Base:\n    pass")
    notebook.cell("import tools.deep\nfrom tools.deep import f as g, DATA\nfrom other import Base")
    notebook.cell(
        "class Net(Base):\n    def f(self):\n        return tools.deep.f(), g(), DATA.read()"
    )
    bundle = make_bundle({"model": notebook["Net"]})
    assert list(bundle.files) == ["experiment.py", "other.py", "tools/__init__.py", "tools/deep.py"]
    assert bundle.load("model")().f() == (1, 1, "kept by its file")
    assert bundle.load("model").__mro__[1] is not notebook["Base"]


def test_a_local_module_called_experiment(notebook: Notebook, folder: Callable[..., Path]) -> None:
    folder("experiment.py", "def f():\n    return 1")
    notebook.cell("from experiment import f\ndef g():\n    return f()")
    bundle = make_bundle({"model": notebook["g"]})
    assert list(bundle.files) == ["experiment.py", "experiment_2.py"]
    assert bundle.load("model")() == 1


def test_a_local_package_called_cells(notebook: Notebook, folder: Callable[..., Path]) -> None:
    folder("cells/__init__.py", "def f():\n    return 1")
    cell = "import cells\ndef g():\n    return cells.f()\n"
    notebook.cell(cell)
    bundle = make_bundle({"model": notebook["g"]}, cells={"mine": cell})
    assert list(bundle.files) == ["cells/__init__.py", "cells_2/mine.py"]
    assert bundle.load("model")() == 1


def test_modules_read_from_packages_are_imported(
    notebook: Notebook, folder: Callable[..., Path]
) -> None:
    folder("tools/__init__.py", "")
    folder("tools/inner/__init__.py", "")
    folder("tools/inner/deep.py", "class A:\n    class B:\n        x = 1\n")
    notebook.cell("import tools\nfrom tools.inner import deep\nNested = deep.A.B")
    notebook.cell("def f():\n    return tools.inner.deep.A.B.x, Nested.x\npair = (Nested, deep)")
    notebook.cell("def g():\n    return f(), pair[0].x, pair[1].A.B.x")
    bundle = make_bundle({"model": notebook["g"]})
    assert list(bundle.files) == [
        "experiment.py",
        "tools/__init__.py",
        "tools/inner/__init__.py",
        "tools/inner/deep.py",
    ]
    assert bundle.load("model")() == ((1, 1), 1, 1)


def test_classes_inside_functions_of_local_modules(folder: Callable[..., Path]) -> None:
    text = "from math import pi\nclass Base:\n    x = pi\ndef make():\n    class Net(Base):\n"
    folder("mine.py", text + "        def f(self):\n            return self.x\n    return Net")
    bundle = make_bundle({"model": importlib.import_module("mine").make()})
    assert list(bundle.files) == ["experiment.py", "mine.py"]
    assert "\nfrom mine import Base\n" in bundle.files["experiment.py"]
    assert bundle.load("model")().f() == math.pi


def test_kept_cells_in_values_of_other_cells(notebook: Notebook) -> None:
    cell = "class Net:\n    class Inner:\n        x = 1\n"
    notebook.cell(cell)
    notebook.cell("kinds = [Net]\nInner = Net.Inner\ndef f():\n    return kinds, Inner.x")
    bundle = make_bundle({"dataset": notebook["f"], "model": notebook["Net"]}, cells={"net": cell})
    assert list(bundle.files) == ["cells/net.py", "experiment.py"]
    assert bundle.load("dataset")() == ([bundle.load("model")], 1)


def test_two_bundles_with_modules_of_one_name(folder: Callable[..., Path]) -> None:
    loaded = []
    for number in (1, 2):
        folder("mine.py", f"def f():\n    return {number}\n{'#' * number}\n")
        sys.modules.pop("mine", None)
        loaded.append(make_bundle({"model": importlib.import_module("mine").f}).load("model"))
    assert [function() for function in loaded] == [1, 2]
    assert refused({"model": loaded[0], "dataset": loaded[1]}) == (
        "two different files are called mine.py, from the bundles of two runs; "
        "define one of the two again in a cell"
    )


def test_a_file_that_was_changed_after_its_import(folder: Callable[..., Path]) -> None:
    folder("mine.py", "class Net:\n    def f(self):\n        return 1")
    module = importlib.import_module("mine")
    folder("mine.py", "class Net:\n    def f(self):\n        return 22")
    assert refused({"model": module.Net}) == (
        "`Net` is no longer what mine.py holds, which was changed after it was imported; "
        "restart the kernel, or reload the module"
    )


def test_a_class_of_a_module_that_was_reloaded(folder: Callable[..., Path]) -> None:
    file = folder("mine.py", "class Net:\n    def f(self):\n        return 1")
    module = importlib.import_module("mine")
    older = module.Net
    folder("mine.py", "class Net:\n    def f(self):\n        return 22  # longer")
    importlib.reload(module)
    assert make_bundle({"model": module.Net}).load("model")().f() == 22
    assert refused({"model": older}) == (
        f"the source of `Net` cannot be kept, because {file.name} was changed after it was "
        "imported; restart the kernel, or import it again"
    )


def test_installed_classes_are_references() -> None:
    bundle = make_bundle({"model": nn.Linear, "dataset": torch.relu, "strategy": json.loads})
    assert bundle.files == {}
    assert bundle.references == {
        "dataset": "torch:relu",
        "model": "torch.nn:Linear",
        "strategy": "json:loads",
    }
    assert bundle.load("model") is nn.Linear
    assert make_bundle({"experiment": Bundle}).references == {
        "experiment": "flautim_lab.experiment.bundle:Bundle"
    }


def test_a_script_run_by_python(tmp_path: Path) -> None:
    (tmp_path / "near.py").write_text("def near():\n    return 'near'\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(ROOT)!r})
            from near import near
            from flautim_lab.experiment.bundle import make_bundle
            size = 3
            class Config:
                width = 4
            def model():
                return near(), size, Config.width
            if __name__ == "__main__":
                bundle = make_bundle({{"model": model}})
                bundle.write("bundle")
                print(*bundle.files, bundle.load("model")())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("experiment.py near.py ('near', 3, 4)\n", "")
    assert Bundle.read(tmp_path / "bundle").load("model")() == ("near", 3, 4)
