"""What has no source that a bundle could hold is refused in one sentence."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flautim_lab.experiment.bundle import make_bundle
from tests.experiment.conftest import Notebook, refused


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
