"""Finding the text of definitions, the names they use, and values as source."""

from __future__ import annotations

import ast
import collections
import dataclasses
import enum
import functools
import itertools
import json
import linecache
import logging
import math
import os
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flautim_lab import experiment
from flautim_lab.errors import BundleError
from flautim_lab.experiment import source
from flautim_lab.experiment.source import Definition, find_definition, plain_python, texts
from flautim_lab.experiment.source_modules import (
    LocalFiles,
    is_installed,
    local_file,
    public_home,
)
from flautim_lab.experiment.source_names import Use, imports, uses
from flautim_lab.experiment.source_values import CannotKeepError, a, expression

Cell = Callable[..., dict[str, Any]]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    """Return a function that runs a cell as IPython does: its text is kept in linecache."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(source, "_kept", {})
    numbers = itertools.count(1)
    names = []

    def run(text: str, *, history: bool = False, cached: bool = True) -> dict[str, Any]:
        text = textwrap.dedent(text).strip("\n")
        name = f"<cell-{next(numbers)}-{id(main)}>"
        names.append(name)
        if cached:
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        if history:
            vars(main).setdefault("_ih", []).append(text)
        exec(compile(text, name, "exec"), vars(main))
        return vars(main)

    yield run
    for name in names:
        linecache.cache.pop(name, None)


def defined(text: str, name: str = "f", *, future: bool = False) -> Definition:
    text = textwrap.dedent(text).strip("\n") + "\n"
    node = next(x for x in ast.walk(ast.parse(text)) if getattr(x, "name", None) == name)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return Definition(name, node, text, future)


# --- texts ------------------------------------------------------------


def test_a_definition_keeps_decorators_and_comments(cell: Cell) -> None:
    names = cell(
        """
        import functools
        # Not part of it.
        @functools.lru_cache(
            maxsize=3,
        )
        def f(x):  # why
            # because
            return x

        y = 1
        """
    )
    found = find_definition(names["f"], names)
    assert found is not None
    assert found.lines == range(3, 9)
    assert found.source == (
        "@functools.lru_cache(\n    maxsize=3,\n)\ndef f(x):  # why\n    # because\n    return x\n"
    )


@pytest.mark.parametrize(
    ("inside", "moved"),
    [
        ("    return 1", "def f():\n    return 1\n"),
        (
            "    return '''\nx'''",
            "if True:  # as indented in its cell\n    def f():\n        return '''\nx'''\n",
        ),
    ],
)  # fmt: skip
def test_an_indented_definition_moves_to_the_margin(cell: Cell, inside: str, moved: str) -> None:
    lines = inside.split("\n")
    names = cell("\n".join(["if True:", "    def f():", "    " + lines[0], *lines[1:]]))
    found = find_definition(names["f"], names)
    assert found is not None
    assert found.source == moved
    namespace: dict[str, Any] = {}
    exec(found.source, namespace)
    assert namespace["f"]() == names["f"]()


def test_texts_come_newest_first_without_magics(cell: Cell) -> None:
    names = cell("x = 1", history=True, cached=False)
    call = "get_ipython().run_cell_magic('time', '', '%%capture\\n# olá\\ny = 2\\n')"
    names["_ih"] += [call, "!ls\nz = 3", "not python (", ""]
    source.keep_cell("a", "kept = 1")
    source.keep_cell("b", "kept = 2")
    source.keep_cell("a", "kept = 3")
    ours = [text for text in texts(names) if "=" in text][:5]
    assert ours == ["# !ls\nz = 3", "# olá\ny = 2\n", "x = 1", "kept = 3", "kept = 2"]
    assert source.kept_cells() == {"b": "kept = 2", "a": "kept = 3"}


def test_the_history_tells_what_linecache_does_not(cell: Cell) -> None:
    cell("class A:\n    def f(self):\n        return 1", history=True, cached=False)
    names = cell("class A:\n    def f(self):\n        return 2", history=True, cached=False)
    first = names["A"]
    cell("class A:\n    def f(self):\n        return 3", history=True, cached=False)
    found = find_definition(first, names)
    assert found is not None
    assert "return 2" in found.source
    names["_ih"].clear()
    assert find_definition(first, names) is None


def test_plain_python_comments_out_what_is_none() -> None:
    assert plain_python("%magic\n  !ls\r\nx = 1") == "# %magic\n#   !ls\nx = 1"
    assert plain_python("x = '''\n%s\n'''") == "x = '''\n%s\n'''"
    assert plain_python("x = (") is None


def test_a_changed_constant_still_finds_the_class_by_name(cell: Cell) -> None:
    names = cell("class Config:\n    width = 1\n    other = width + 1")
    names["Config"].width = 2
    found = find_definition(names["Config"], names)
    assert found is not None
    assert "width = 1" in found.source


# --- names ------------------------------------------------------------


def test_names_are_those_the_interpreter_looks_up() -> None:
    definition = defined(
        """
        @decorate(option)
        class f(pkg.Base, metaclass=Meta):
            own = 1
            twice = [own, outer]
            again = again
            made = [g(x) for x in items if x]

            def method(self, x: Evaluated, y=default) -> None:
                import local
                z: Ignored = local.x
                del x
                late = [torch.nn.functional.relu(w) for w in self]
                try:
                    return lambda q: q + deeper + late
                except Error as error:
                    return super().method(error, __class__)

            class Inner:
                value = early
        """
    )
    found = uses(definition)
    early = {use.name for use in found if use.early}
    assert early == {
        "decorate", "option", "pkg", "Meta", "outer", "again", "g", "items", "Evaluated", "default",
        "early",
    }  # fmt: skip
    late = {use.name for use in found if not use.early and not use.optional}
    assert late == {"torch", "deeper", "Error", "super"}
    assert {use.name for use in found if use.optional} == {"Ignored"}
    assert Use("torch", ("nn", "functional", "relu")) in found
    assert Use("pkg", ("Base",), early=True) in found


def test_annotations_of_the_future_are_optional() -> None:
    definition = defined(
        "def f(x: A, *y: 'B[C]', z: Literal['no name', 'D'] = e) -> F | None: ...", future=True
    )
    assert {use.name for use in uses(definition) if not use.optional} == {"e"}
    optional = {use.name for use in uses(definition) if use.optional}
    assert optional == {"A", "B", "C", "Literal", "D", "F"}


def test_imports_absolute_and_relative() -> None:
    tree = ast.parse("import a.b as c, d\ndef f():\n    from .. import e\n    from .g import h\n")
    assert imports(tree, "p.q") == ["a", "a.b", "d", "p", "p.e", "p.q", "p.q.g", "p.q.g.h"]


# --- values ------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Config:
    width: int = 3
    rates: tuple[float, ...] = ()


@dataclasses.dataclass
class Derived:
    width: int
    double: int = dataclasses.field(init=False, default=0)


class Point(NamedTuple):
    x: int


def mention(value: Any) -> str:
    """Name a class, function or module as in this test's own globals."""
    return value.__name__ if isinstance(value, types.ModuleType) else f"names[{value.__name__!r}]"


def again(value: Any) -> Any:
    """Evaluate the expression of ``value``, with what it mentions at hand."""
    names: dict[str, Any] = {}

    def remember(thing: Any) -> str:
        if isinstance(thing, types.ModuleType):
            return f"__import__({thing.__name__!r})"
        names[thing.__name__] = thing
        return mention(thing)

    return eval(expression(value, remember), {"names": names, "torch": torch})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    | st.tuples(inner, inner) | st.tuples(inner) | st.just(()),
    max_leaves=8,
)  # fmt: skip


@given(plain)
def test_plain_values_come_back(value: Any) -> None:
    assert repr(again(value)) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        {1, "a", (2,)}, frozenset(), set(), range(2, 9, 3), ..., torch.float16,
        torch.device("cuda:1"), torch.Size([2, 3]), torch.channels_last,
        np.dtype("float32"), np.dtype(">i2"), np.dtype("U3"),
        np.float32(0.1), np.int64(3), np.bool_(True), Path("a") / "ü", PurePosixPath("/b"),
        Color.RED, Access.READ | Access.WRITE, Config(2, (0.1, math.inf)), nn.ReLU,
        [math, len, int], collections.OrderedDict(b=1, a=2), collections.Counter("aab"),
        re.compile("a+", re.IGNORECASE), logging.getLogger("here"), list[int], int | None,
        dict[str, torch.Tensor | None],
        types.SimpleNamespace(lr=0.1),
    ],
    ids=lambda value: type(value).__name__,  # a set's repr differs from process to process
)  # fmt: skip
def test_other_values_come_back(value: Any) -> None:
    assert again(value) == value
    assert type(again(value)) is type(value)


def test_partials_and_modules_without_weights_come_back() -> None:
    made = again(functools.partial(Config, 5, rates=(1.0,)))
    assert (made.func, made.args, made.keywords) == (Config, (5,), {"rates": (1.0,)})
    for module in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.Softmax(dim=1), nn.Dropout(0.3)):
        assert vars(again(module)) == vars(module)
    assert expression(nn.ReLU(), mention) == "names['ReLU']()"


def test_sets_have_one_order() -> None:
    assert expression({"b", "a", "c"}, mention) == "{'a', 'b', 'c'}"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.ones(1), "a Tensor"),
        (nn.Linear(1, 1), "a Linear"),
        (nn.CrossEntropyLoss(weight=torch.ones(2)), "a CrossEntropyLoss"),
        (nn.Sequential(nn.ReLU()), "a Sequential"),
        (nn.ReLU().eval(), "a ReLU"),
        (np.ones(1), "a ndarray"),
        ((1, {"a": object()}), "a tuple that holds a dict that holds an object"),
        (Derived(1), "a Derived with attributes that its arguments do not give"),
        (Config(object()), "a Config made with an object"),  # type: ignore[arg-type]
        (Point(1), "a Point"),
        (Callable[..., int], "a type collections.abc.Callable[..., int]"),
        (list(range(20_001)), "a list of 20001 items"),
        (b"x" * 20_000, "a bytes of 20003 characters"),
    ],
)
def test_values_that_cannot_be_kept(value: Any, what: str) -> None:
    with pytest.raises(CannotKeepError) as error:
        expression(value, mention)
    assert str(error.value) == what


def test_articles() -> None:
    assert [a(1), a([]), a(json.JSONDecoder())] == ["an int", "a list", "a JSONDecoder"]


# --- modules ------------------------------------------------------------


def test_what_is_installed() -> None:
    for module in (os, json, sys, torch, np, experiment, math, itertools):
        assert is_installed(module)
    assert not is_installed(sys.modules[__name__])
    assert not is_installed(types.ModuleType("__main__"))


def test_public_homes() -> None:
    assert public_home(nn.Linear) == ("torch.nn", "Linear")
    assert public_home(torch.relu) == ("torch", "relu")
    assert public_home(collections.OrderedDict.fromkeys) is None
    assert public_home(functools.partial(int)) is None
    assert public_home(len) == ("builtins", "len")


def test_local_files_are_found_without_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "surely_local"
    (package / "bare").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError\n")
    (package / "a.py").write_bytes(
        b"# -*- coding: latin-1 -*-\nimport surely_local.bare.b\nx = '\xe1'\n"
    )
    (package / "bare" / "b.py").write_text("from .. import a, missing\n")
    (package / "fast.so").write_text("")
    files = LocalFiles()
    assert files.copy("surely_local.a") is not None
    assert files.copy("surely_local.bare") is None
    assert files.copy("json.decoder") is None
    assert sorted(files.by_path) == [
        "surely_local/__init__.py", "surely_local/a.py", "surely_local/bare/b.py",
    ]  # fmt: skip
    assert files.by_path["surely_local/a.py"].text.endswith("x = 'á'\n")
    assert "surely_local" not in sys.modules
    assert local_file("surely_not_here.at_all") is None
    (package / "bare" / "b.py").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"^the source of `surely_local.bare.b` cannot be read: "):
        local_file("surely_local.bare.b")


def test_compiled_local_modules_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("surely_fast")
    module.__file__ = str(tmp_path / "surely_fast.so")
    monkeypatch.setitem(sys.modules, "surely_fast", module)
    with pytest.raises(BundleError) as error:
        local_file("surely_fast")
    assert str(error.value) == (
        "`surely_fast` is compiled code in surely_fast.so, which cannot be kept as source; "
        "install it as a package where the experiment runs"
    )
