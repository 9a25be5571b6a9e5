"""The bundle: what cells, files and packages become, and that it defines the same again."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from torch import nn
from torch.nn import functional as F
from traitlets.config import Config

from flautim_lab.errors import BundleError
from flautim_lab.experiment import source
from flautim_lab.experiment.bundle import Bundle, keep_cell, make_bundle

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


# --- cells -------------------------------------------------------------------------------------


def test_cells_become_one_readable_module(notebook: Notebook) -> None:
    notebook.cell("import torch\nfrom torch import nn\nimport torch.nn.functional as F")
    notebook.cell("hidden = 16")
    notebook.cell("unused = 1\ndef activation(x):\n    return F.relu(x)")
    notebook.cell(NET)
    notebook.cell("hidden = 32")
    bundle = make_bundle({"model": notebook["Net"]})
    assert bundle.references == {"model": "experiment.py:Net"}
    assert bundle.files == {
        "experiment.py": "# Gathered from notebook cells by Flautim Lab.\n"
        "import torch.nn.functional as F\n"
        "from torch import nn\n"
        "\n"
        "hidden = 32\n"
        "\n\n"
        "def activation(x):\n"
        "    return F.relu(x)\n"
        "\n\n" + NET.lstrip()
    }


def test_a_fresh_process_builds_the_same_model(notebook: Notebook, tmp_path: Path) -> None:
    notebook.cell("import torch\nfrom torch import nn\nimport torch.nn.functional as F")
    notebook.cell("hidden = 16\nactivation = F.relu")
    notebook.cell(NET)
    bundle = make_bundle({"model": notebook["Net"]})
    bundle.write(tmp_path / "bundle")
    code = f"""
        import torch
        from flautim_lab.experiment.bundle import Bundle
        bundle = Bundle.read({str(tmp_path / "bundle")!r})
        torch.manual_seed(3)
        model = bundle.load("model")()
        print(bundle.hash, model(torch.ones(4)).tolist())
    """
    torch.manual_seed(3)
    expected = notebook["Net"]()(torch.ones(4)).tolist()
    assert python(code) == f"{bundle.hash} {expected}\n"


def test_a_kernel_of_jupyter_and_papermill_parameters(tmp_path: Path) -> None:
    cells = [
        "import torch\nfrom torch import nn\nfrom flautim_lab.experiment.bundle import *",
        "hidden = 16",
        "# Parameters\nhidden = 24",
        "class Config:\n    classes = 3",
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(hidden, Config.classes)\n",
        "hidden = 32",
        "class Config:\n    classes = 5",
        f"make_bundle({{'model': Net}}).write({str(tmp_path / 'bundle')!r})",
    ]
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(x) for x in cells])
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython")}
    client = NotebookClient(document, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    model = Bundle.read(tmp_path / "bundle").load("model")()
    assert model.layer.weight.shape == (5, 32)


def test_the_class_is_taken_from_the_cell_it_came_from(notebook: Notebook) -> None:
    notebook.cell("class Net:\n    def size(self):\n        return 1")
    first = notebook["Net"]
    notebook.cell("class Net:\n    def size(self):\n        return 2")
    assert make_bundle({"model": first}).load("model")().size() == 1
    assert make_bundle({"model": notebook["Net"]}).load("model")().size() == 2


def test_classes_without_methods_are_told_apart_by_their_constants(notebook: Notebook) -> None:
    notebook.cell("class Config:\n    width = 1\n    depth: int = 2")
    first = notebook["Config"]
    notebook.cell("class Config:\n    width = 3\n    depth: int = 2")
    assert make_bundle({"model": first}).load("model").width == 1
    assert make_bundle({"model": notebook["Config"]}).load("model").width == 3


def test_cells_under_magics_are_found(notebook: Notebook) -> None:
    notebook.cell("%%capture\nclass A:\n    def f(self):\n        return 'captured'")
    notebook.cell("%%time\nclass B(A):\n    x = 5")
    loaded = make_bundle({"model": notebook["B"]}).load("model")
    assert (loaded.x, loaded().f()) == (5, "captured")


def test_a_base_that_was_defined_again_is_the_older_one(notebook: Notebook) -> None:
    notebook.cell("class Base:\n    def f(self):\n        return 1")
    notebook.cell("class Net(Base):\n    pass")
    notebook.cell("class Base:\n    def f(self):\n        return 2")
    assert make_bundle({"model": notebook["Net"]}).load("model")().f() == 1


def test_two_definitions_of_one_name_are_refused(notebook: Notebook) -> None:
    notebook.cell("class Base:\n    def f(self):\n        return 1")
    notebook.cell("class Net(Base):\n    def g(self):\n        return 1")
    notebook.cell("class Base:\n    def f(self):\n        return 2")
    notebook.cell("def make():\n    return Base()")
    assert refused({"dataset": notebook["make"], "model": notebook["Net"]}) == (
        "two different `Base` are used, of which only one can be kept; run the cells that use "
        "the older `Base` again, or give one of them another name"
    )
    notebook.cell("class Net(Net):\n    pass")
    assert refused({"model": notebook["Net"]}) == (
        "`Net` is made from another `Net`; give one of them another name"
    )


def test_the_same_cell_run_twice_is_no_conflict(notebook: Notebook) -> None:
    base = "class Base:\n    def f(self):\n        return 1"
    notebook.cell(base)
    notebook.cell("class Net(Base):\n    def g(self):\n        return 1")
    notebook.cell(base)
    notebook.cell("def make():\n    return Base()")
    bundle = make_bundle({"dataset": notebook["make"], "model": notebook["Net"]})
    assert bundle.load("model")().f() == bundle.load("dataset")().f()


def test_definitions_that_need_each_other(notebook: Notebook) -> None:
    notebook.cell("class Base:\n    def grow(self):\n        return Grown()")
    notebook.cell("class Grown(Base):\n    def shrink(self):\n        return Base()")
    notebook.cell("def even(n):\n    return n == 0 or odd(n - 1)")
    notebook.cell("def odd(n):\n    return n != 0 and even(n - 1)")
    bundle = make_bundle({"model": notebook["Base"], "dataset": notebook["odd"]})
    assert type(bundle.load("model")().grow().shrink()) is bundle.load("model")
    assert bundle.load("dataset")(7) is True


def test_values_come_before_what_reads_them_and_after_what_they_are_made_of(
    notebook: Notebook,
) -> None:
    notebook.cell("from functools import partial\nfrom torch import nn")
    notebook.cell("class Block(nn.Module):\n    def __init__(self, n):\n        super().__init__()")
    notebook.cell("make = partial(Block, 3)\nkinds = [Block, nn.ReLU, len]")
    notebook.cell("n = 2\nclass Net(nn.Module):\n    block = make()\n    kinds = kinds * n")
    loaded = make_bundle({"model": notebook["Net"]}).load("model")
    assert type(loaded.block).__name__ == "Block"
    assert loaded.kinds == [type(loaded.block), nn.ReLU, len] * 2


def test_names_that_need_nothing(notebook: Notebook) -> None:
    notebook.cell(
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar
        import pandas as pd

        table = pd.DataFrame()
        """
    )
    notebook.cell(
        """
        @dataclass(frozen=True)
        class Config:
            count: ClassVar[int] = 7
            width: int = 4
            frame: table | Nowhere = None

            def wider(self: Config, by: "Nothing" = 1) -> Absent:
                local: Missing = print and [x for x in range(by)]
                try:
                    return Config(self.width + len(local))
                except ValueError as error:
                    raise error
        """
    )
    loaded = make_bundle({"model": notebook["Config"]}).load("model")
    assert loaded().wider() == loaded(width=5)
    assert list(loaded.__dataclass_fields__) == ["count", "width", "frame"]
    assert loaded.__dataclass_fields__["count"]._field_type.name == "_FIELD_CLASSVAR"


def test_star_imports_aliases_submodules_and_nested_classes(notebook: Notebook) -> None:
    notebook.cell("from math import *\nimport xml.etree as tree\nimport xml.etree.ElementTree")
    notebook.cell("from torch.nn import Linear as Dense\nfrom numpy import sin as sine")
    notebook.cell(
        "class Outer:\n    class Inner:\n        def f(self):\n            return sqrt(4)"
    )
    notebook.cell("Other = Outer.Inner\nclass Sub(Other):\n    pass")
    notebook.cell(
        "def parse(text):\n    return Dense, sine(0), Other, tree.ElementTree.fromstring(text).tag"
    )
    bundle = make_bundle({"model": notebook["Outer"].Inner, "dataset": notebook["parse"]})
    assert bundle.references["model"] == "experiment.py:Outer.Inner"
    assert bundle.load("model")().f() == 2
    assert bundle.load("dataset")("<a/>") == (nn.Linear, 0.0, bundle.load("model"), "a")
    assert make_bundle({"model": notebook["Sub"]}).load("model")().f() == 2


def test_functions_behind_decorators_and_methods_of_classes(notebook: Notebook) -> None:
    notebook.cell("import functools, torch")
    notebook.cell(
        """
        def twice(function):
            @functools.wraps(function)
            def wrapper(*args):
                return 2 * function(*args)
            return wrapper

        @twice
        def one():
            return 1

        @functools.lru_cache
        def two():
            return one()

        class Maker:
            @classmethod
            def make(cls):
                return cls.__name__, two()

            @property
            def size(self):
                return one()
        """
    )
    bundle = make_bundle({"model": notebook["Maker"].make, "dataset": notebook["two"]})
    assert bundle.load("model")() == ("Maker", 2)
    assert bundle.load("dataset")() == 2


def test_partials_named_tuples_and_nested_definitions(notebook: Notebook) -> None:
    notebook.cell("from collections import namedtuple\nBatch = namedtuple('Batch', 'x y')")
    notebook.cell("def model(width, depth):\n    return Batch(width, depth)")
    notebook.cell("if True:\n    def text():\n        return '''a\n  b'''")
    made = functools.partial(notebook["model"], 3, depth=2)
    bundle = make_bundle({"model": made, "dataset": notebook["text"]})
    assert bundle.references["model"] == "experiment.py:make_model"
    assert bundle.load("model")() == (3, 2)
    assert bundle.load("dataset")() == "a\n  b"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "what"),
    [
        ("import pandas\ntable = pandas.DataFrame()", "a DataFrame"),
        ("import torch\ntable = torch.ones(3)", "a Tensor"),
        ("import torch\ntable = [torch.ones(3)]", "a list that holds a Tensor"),
        ("table = open('/dev/null')", "a TextIOWrapper"),
        ("import io\ntable = io.StringIO()", "a StringIO"),
        ("from torch import nn\ntable = nn.Linear(2, 2)", "a Linear"),
        ("table = list(range(100_000))", "a list of 100000 items"),
        ("table = 'x' * 30_000", "a str of 30002 characters"),
        ("table = []; table.append(table)", "a list that holds itself"),
    ],
)  # fmt: skip
def test_values_without_source_are_refused(notebook: Notebook, setup: str, what: str) -> None:
    notebook.cell(setup)
    notebook.cell("class Net:\n    def f(self):\n        return table")
    assert refused({"model": notebook["Net"]}) == (
        f"`Net` uses `table`, {what}, which cannot be kept as source; "
        "make it an argument or read it inside the class"
    )


def test_a_name_that_nothing_defines(notebook: Notebook) -> None:
    notebook.cell("class Net:\n    def f(self, x):\n        return F.relu(x)")
    assert refused({"model": notebook["Net"]}) == (
        "`Net` uses `F`, which nothing defines; import it in the cell that defines `Net`"
    )


def test_the_path_of_the_file(notebook: Notebook) -> None:
    notebook.cell("def near():\n    return __file__")
    assert refused({"model": notebook["near"]}) == (
        "`near` uses `__file__`, the path of a file that will not be there; "
        "make the path an argument"
    )


def test_modules_that_cannot_be_imported_again(notebook: Notebook) -> None:
    notebook.cell("import __main__, types\nmade = types.ModuleType('made')")
    notebook.cell("def f():\n    return __main__\ndef g():\n    return made")
    for function, name in (("f", "__main__"), ("g", "made")):
        assert refused({"model": notebook[function]}) == (
            f"`{function}` uses `{name}`, a module that no import can find again; "
            "put what it needs into the cell or into a .py module"
        )


def test_what_ipython_puts_in_the_place_of_builtins(notebook: Notebook) -> None:
    from IPython.display import display

    notebook.cell("def f():\n    return open, exit and display, print")
    loaded = make_bundle({"model": notebook["f"]}).load("model")
    assert loaded()[0] is open
    assert loaded()[1:] == (display, print)


def test_a_decorator_without_wraps(notebook: Notebook) -> None:
    notebook.cell("def deco(f):\n    def inner():\n        return f()\n    return inner")
    notebook.cell(
        "@deco\ndef g():\n    return 1\nclass Net:\n    @deco\n    def h():\n        return 2"
    )
    assert make_bundle({"model": notebook["Net"]}).load("model").h() == 2
    assert refused({"model": notebook["g"]}) == (
        "`inner` uses `f`, a local variable of `deco`, inside which it is defined; make it an "
        "argument of `inner`, or define `inner` at the top level of a cell or module; if `deco` is "
        "a decorator, write @functools.wraps above `inner`"
    )


def test_named_tuples_with_defaults(notebook: Notebook) -> None:
    notebook.cell(
        "from collections import namedtuple\nBatch = namedtuple('Batch', 'x y', defaults=[1])"
    )
    assert make_bundle({"model": notebook["Batch"]}).load("model")(0) == (0, 1)
    notebook.cell("Batch = namedtuple('Batch', 'x y', defaults=[object()])")
    assert refused({"model": notebook["Batch"]}) == (
        "the defaults of `Batch` are a list that holds an object, which cannot be kept as source; "
        "leave them out"
    )


def test_an_import_that_needs_a_taken_name(notebook: Notebook) -> None:
    notebook.cell("import torch as numpy, numpy as np\nscale = np.float32(2)")
    notebook.cell("def f():\n    return numpy.ones(1), scale")
    assert refused({"model": notebook["f"]}).startswith("two different `numpy` are used, of which")


def test_lambdas(notebook: Notebook) -> None:
    notebook.cell("make = lambda: 1\nclass Net:\n    def f(self):\n        return make()")
    end = " is a lambda, which cannot be kept as source; write it as a function with def"
    assert refused({"model": notebook["make"]}) == "the model" + end
    assert refused({"model": notebook["Net"]}) == "`make`" + end


def test_local_variables_of_a_function(notebook: Notebook) -> None:
    notebook.cell(
        """
        size = 1
        def factory(size):
            class Net:
                def f(self):
                    return size
            class Free:
                def f(self):
                    return 5
            return Net, Free
        Net, Free = factory(2)
        """
    )
    assert refused({"model": notebook["Net"]}) == (
        "`Net` uses `size`, a local variable of `factory`, inside which it is defined; make it "
        "an argument of `Net`, or define `Net` at the top level of a cell or module"
    )
    assert make_bundle({"model": notebook["Free"]}).load("model")().f() == 5


def test_what_was_made_while_the_program_ran(notebook: Notebook) -> None:
    namespace: dict[str, Any] = {}
    exec("class Net:\n    def f(self):\n        return 1", namespace)
    end = (
        "cannot be found, because it was made while the program ran (by exec or type); "
        "define it in a cell or in a .py module"
    )
    assert refused({"model": namespace["Net"]}) == f"the source of `Net` {end}"
    notebook.cell("exec('class Net:\\n    def f(self):\\n        return 1')")
    assert refused({"model": notebook["Net"]}) == f"the source of `Net` {end}"
    notebook.cell("Made = type('Made', (), {})")
    assert refused({"model": notebook["Made"]}) == f"the source of `Made` {end}"


def test_a_prompt_keeps_no_source(notebook: Notebook) -> None:
    code = compile("class Net:\n    def f(self):\n        return 1", "<stdin>", "exec")
    exec(code, vars(notebook.main))
    assert refused({"model": notebook["Net"]}) == (
        "the source of `Net` cannot be found, because it was typed at a Python prompt, which "
        "keeps no source; define it in a cell or in a .py module"
    )


def test_objects_that_are_no_class(notebook: Notebook) -> None:
    assert refused({"model": nn.ReLU()}) == (
        "the model is a ReLU, which is not kept; give its class, or a function that makes it"
    )
    assert refused({"model": functools.partial(nn.Linear, torch.ones(1))}) == (
        "the model is a Linear made with a Tensor, which cannot be kept as source; "
        "give a class or a function with plain arguments"
    )
    assert refused({"model": nn.Linear(1, 1).extra_repr}) == (
        "the model is a method, which is not kept; give its class, or a function that makes it"
    )
    for made in (torch.func.grad(torch.sum), F.max_pool2d):
        assert refused({"model": made}) == (
            "the model was made while the program ran and has no name of its own, so it cannot be "
            "kept as source; write a function with def that makes it"
        )


def test_a_default_made_from_a_value_that_has_changed(notebook: Notebook) -> None:
    notebook.cell("hidden = 16")
    text = "class Net:\n    width = 2 * hidden\n    def f(self, n=hidden):\n        return n"
    notebook.cell(text)
    assert make_bundle({"model": notebook["Net"]}).load("model")().f() == 16
    notebook.cell("hidden = 32")
    assert refused({"model": notebook["Net"]}) == (
        "`Net.width` was made with 32, and `2 * hidden` is 64 now; "
        "run the cell that defines `Net` again"
    )
    notebook.cell(text.replace("    width = 2 * hidden\n", "") + "\nhidden = 8")
    assert refused({"model": notebook["Net"]}) == (
        "`Net.f(n=)` was made with 32, and `hidden` is 8 now; run the cell that defines `Net` again"
    )


def test_a_method_that_was_replaced(notebook: Notebook) -> None:
    notebook.cell("class Net:\n    def f(self):\n        return 1")
    notebook.cell("def better(self):\n    return 2\nNet.f = better")
    message = (
        "`Net.f` was replaced after the class was defined; put it into the cell that defines "
        "`Net`, and run that again"
    )
    assert refused({"model": notebook["Net"]}) == message
    notebook.cell("class Net:\n    def g(self):\n        return 1\nNet.f = better")
    assert refused({"model": notebook["Net"]}) == message


# --- local modules and packages -------------------------------------------------------------------


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


# --- kept cells ---------------------------------------------------------------------------


def test_a_kept_cell_is_a_file_of_its_own(notebook: Notebook) -> None:
    notebook.cell("import torch\nhidden = 16\ndef helper(x):\n    return x")
    cell = textwrap.dedent(
        """
        # My network.
        from torch import nn
        import math

        width = 3

        class Net(nn.Module):
            def size(self):
                return helper(hidden), width  # both

        print("defined", width,
              hidden)
        """
    ).lstrip()
    notebook.cell(cell)
    notebook.cell("width = 5")
    keep_cell("Minha rede 1", cell)
    bundle = make_bundle({"model": notebook["Net"]})
    assert bundle.references == {"model": "cells/minha_rede_1.py:Net"}
    assert bundle.files["cells/minha_rede_1.py"] == (
        "# The cell `Minha rede 1`, whole. Loading it only defines: what else the cell did is a "
        "comment.\n"
        "from experiment import helper\n"
        "\n"
        "hidden = 16\n"
        "width = 5\n"
        "\n"
        "# My network.\n"
        "from torch import nn\n"
        "# import math\n"
        "\n"
        "# width = 3\n"
        "\n"
        "class Net(nn.Module):\n"
        "    def size(self):\n"
        "        return helper(hidden), width  # both\n"
        "\n"
        '# print("defined", width,\n'
        "#       hidden)\n"
    )
    assert bundle.load("model")().size() == (16, 5)


def test_a_kept_cell_that_has_changed_since_is_not_used(notebook: Notebook) -> None:
    notebook.cell("def f():\n    return 1")
    bundle = make_bundle({"model": notebook["f"]}, cells={"1": "def f():\n    return 2"})
    assert list(bundle.files) == ["experiment.py"]
    assert bundle.load("model")() == 1


@pytest.mark.parametrize(
    "cell",
    [
        "import math; x = 1\ndef f():\n    return g(), math.pi",
        "from functools import partial\ndef h():\n    return 1\nk = partial(h)\ndef f():\n"
        "    return g(), k()",
    ],
)
def test_a_kept_cell_that_cannot_stand_alone_is_gathered(notebook: Notebook, cell: str) -> None:
    notebook.cell("def g():\n    return 1")
    notebook.cell(cell)
    bundle = make_bundle({"model": notebook["f"]}, cells={"cell": cell})
    assert list(bundle.files) == ["experiment.py"]
    assert bundle.load("model")()[0] == 1


def test_kept_cells_that_need_each_other_are_gathered(notebook: Notebook) -> None:
    cells = {
        "a": "def a(n):\n    return n and b(n - 1)",
        "b": "def b(n):\n    return n and a(n - 1)",
    }
    for cell in cells.values():
        notebook.cell(cell)
    bundle = make_bundle({"model": notebook["a"]}, cells=cells)
    assert list(bundle.files) == ["experiment.py"]
    assert bundle.load("model")(5) == 0


def test_kept_cells_with_magics_and_names_from_each_other(notebook: Notebook) -> None:
    cells = {
        "data": "%matplotlib --list\nimport torch\nclass Data:\n    size = 4",
        "1": "class Net(Data):\n    pass",
        "class": "def make():\n    return Net",
    }
    for cell in cells.values():
        notebook.cell(cell.replace("%matplotlib --list\n", ""))
    bundle = make_bundle({"model": notebook["Net"], "strategy": notebook["make"]}, cells=cells)
    assert list(bundle.files) == ["cells/cell_1.py", "cells/cell_class.py", "cells/data.py"]
    assert bundle.files["cells/data.py"].endswith(
        "# %matplotlib --list\n# import torch\nclass Data:\n    size = 4\n"
    )
    assert bundle.load("strategy")() is bundle.load("model")


# --- loading, writing, reading ------------------------------------------------------------


def test_loaded_code_shows_its_source_and_its_lines_in_tracebacks() -> None:
    text = "def fail():\n    # on purpose\n    raise ValueError('no')\n"
    function = Bundle({"mine.py": text}, {"model": "mine.py:fail"}).load("model")
    assert inspect.getsource(function) == text
    with pytest.raises(ValueError, match="no") as error:
        function()
    assert str(error.traceback[-1].statement).strip() == "raise ValueError('no')"


def test_equal_code_is_the_same_object_in_all_threads() -> None:
    text = "import time\ntime.sleep(0.05)\nclass Net:\n    pass\n"
    found: list[object] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(Bundle({"a.py": text}, {"m": "a.py:Net"}).load("m"))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_a_loaded_class_can_be_bundled_again(notebook: Notebook) -> None:
    notebook.cell("n = 3\ndef g():\n    return n\nclass Net:\n    def f(self):\n        return g()")
    bundle = make_bundle({"model": notebook["Net"]})
    assert make_bundle({"model": bundle.load("model")}) == bundle
    notebook.main.Base = bundle.load("model")
    notebook.cell("class Sub(Base):\n    pass")
    again = make_bundle({"model": notebook["Sub"]})
    assert list(again.files) == ["experiment.py", "experiment_2.py"]
    assert again.load("model")().f() == 3


def test_the_hash_depends_on_content_alone(notebook: Notebook, tmp_path: Path) -> None:
    files = {"b.py": "b = 'ü'\n", "a.py": "def a(): ...\n"}
    one = Bundle(files, {"model": "a.py:a", "dataset": "b.py:b"})
    other = Bundle(dict(reversed(files.items())), {"dataset": "b.py:b", "model": "a.py:a"})
    assert one == other
    assert hash(one) == hash(other)
    assert one.hash == other.hash
    assert len(one.hash) == 64
    assert one.hash != Bundle({**files, "b.py": "b = 2\n"}, one.references).hash
    # Sets have another order in every process; the source of them has not.
    code = f"""
        import sys
        from flautim_lab.experiment.bundle import make_bundle, Bundle
        from flautim_lab.experiment import source
        names = {{"x", "yy", "zzz", "Ä"}}
        text = "def f():\\n    return names\\n"
        source.keep_cell("cell", text)
        exec(compile(text, "<cell>", "exec"))
        print(make_bundle({{"model": f}}).hash, Bundle({files!r}, {one.references!r}).hash)
    """
    assert "torch" not in python("import sys, flautim_lab.experiment.bundle\nprint(*sys.modules)")
    printed = [python(code).split() for _ in range(2)]
    assert printed[0] == printed[1]
    assert printed[0][1] == one.hash


def test_writing_is_private_and_whole(tmp_path: Path) -> None:
    bundle = Bundle({"pkg/a.py": "x = '中文'\n"}, {"model": "pkg/a.py:x"})
    folder = bundle.write(tmp_path / "new" / "bundle")
    assert Bundle.read(folder) == bundle
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert bundle.write(folder) == folder
    other = Bundle({"b.py": "x = 2\n"}, {"model": "b.py:x"})
    assert Bundle.read(other.write(folder)) == other
    assert sorted(path.name for path in folder.iterdir()) == ["b.py", "bundle.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BundleError) as error:
        Bundle({}, {}).write(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds something that is no bundle; choose another folder"
    )
    with pytest.raises(BundleError) as error:
        Bundle({}, {}).write(tmp_path / "thesis.tex" / "bundle")
    start = f"the bundle cannot be written to {tmp_path}/thesis.tex/bundle: "
    assert str(error.value).startswith(start)


@pytest.mark.parametrize(
    "path",
    ["../a.py", "/etc/a.py", "a/../../b.py", "a\\b.py", "c:a.py", "", ".", "a.txt", "a//b.py"],
)
def test_paths_stay_inside(path: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as error:
        Bundle({path: ""}, {})
    assert str(error.value) == (
        f"{path!r} cannot be a file of a bundle; use a relative path like a/b.py"
    )
    folder = Bundle({}, {}).write(tmp_path / "bundle")
    index = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**index, "files": [path]}))
    with pytest.raises(BundleError, match="cannot be a file of a bundle"):
        Bundle.read(folder)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = Bundle({"a.py": "x = 1\n"}, {}).write(tmp_path / "bundle")
    (tmp_path / "secret.py").write_text("x = 1\n")
    (folder / "a.py").unlink()
    (folder / "a.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(BundleError) as error:
        Bundle.read(folder)
    assert str(error.value) == "the file 'a.py' of the bundle leads out of its folder"


def test_reading_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as error:
        Bundle.read(tmp_path)
    assert str(error.value) == f"there is no bundle in {tmp_path} (no bundle.json)"
    folder = Bundle({"a.py": "x = 1\n"}, {"model": "a.py:x"}).write(tmp_path / "bundle")
    (folder / "a.py").write_text("x = 2\n")
    with pytest.raises(BundleError) as error:
        Bundle.read(folder)
    assert str(error.value) == f"the bundle in {folder} was changed after it was written"
    for text in ("{", "[]", "{}", '{"format": 1, "files": 3}'):
        (folder / "bundle.json").write_text(text)
        with pytest.raises(BundleError, match=r"^the bundle in .* cannot be read: "):
            Bundle.read(folder)
    (folder / "bundle.json").write_text('{"format": 9}')
    with pytest.raises(BundleError) as error:
        Bundle.read(folder)
    assert str(error.value) == (
        f"the bundle in {folder} has format 9, and this release reads 1; "
        "use the release that wrote it"
    )


@pytest.mark.parametrize("reference", ["a.py", "a.py:", "b.py:f()", "os:system; x", ":f", "/a:f"])
def test_references_point_somewhere(reference: str) -> None:
    with pytest.raises(BundleError) as error:
        Bundle({"a.py": ""}, {"model": reference})
    assert str(error.value) == (
        f"the model of the bundle is {reference!r}; a reference is a file of the bundle and a "
        "name in it, like experiment.py:Net, or a module and a name, like torch.nn:Linear"
    )


def test_a_path_that_is_not_there_is_named_as_the_reason() -> None:
    text = "from pathlib import Path\nHERE = Path(__file__).resolve().parents[50]\nf = 1\n"
    bundle = Bundle({"a.py": "from work import f\n", "work.py": text}, {"model": "a.py:f"})
    with pytest.raises(BundleError) as error:
        bundle.load("model")
    assert str(error.value) == (
        "the model (a.py:f) cannot be loaded: IndexError: 50; work.py uses `__file__`, the path "
        "of a file that is not there: make the path an argument"
    )


def test_loading_what_cannot_be_loaded() -> None:
    bundle = Bundle(
        {"a.py": "import surely_not_here\n", "b.py": "1 / 0\n", "c.py": "x = 1\n"},
        {"dataset": "a.py:f", "model": "b.py:f", "strategy": "c.py:y", "other": "c.py:x"},
    )
    messages = {
        "modell": "no role named 'modell'; did you mean 'model'? "
        "choose one of: dataset, model, other, strategy",
        "dataset": "the dataset (a.py:f) needs the package `surely_not_here`, which is not "
        "installed here; install it and load again",
        "model": "the model (b.py:f) cannot be loaded: ZeroDivisionError: division by zero",
    }
    for role, message in messages.items():
        with pytest.raises(BundleError) as error:
            bundle.load(role)
        assert str(error.value) == message
    with pytest.raises(BundleError, match=r"^the strategy \(c.py:y\) cannot be loaded: Attribute"):
        bundle.load("strategy")
    assert bundle.load("other") == 1


def test_the_value_of_an_environment_variable_is_no_source(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "s3cr3t-and-long")
    namespace = {"__name__": "__main__"}
    source = "import os\nTOKEN = os.environ['SOME_TOKEN']\n"
    source += "class Net:\n    def key(self):\n        return TOKEN\n"
    import linecache

    linecache.cache["<cell secret>"] = (len(source), None, source.splitlines(True), "<cell secret>")
    exec(compile(source, "<cell secret>", "exec"), namespace)
    import sys
    import types

    main = types.ModuleType("__main__")
    main.__dict__.update(namespace)
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(BundleError, match="`TOKEN` holds the value of an environment variable"):
        make_bundle({"model": namespace["Net"]})
