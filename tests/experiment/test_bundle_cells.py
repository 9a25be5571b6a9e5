"""What the cells of a notebook become in a bundle."""

from __future__ import annotations

import functools
import os
import textwrap
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

from flautim_lab.experiment.bundle import Bundle, keep_cell, make_bundle
from tests.experiment.conftest import NET, ROOT, Notebook, python, refused


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
