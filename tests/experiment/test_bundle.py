"""A bundle is loaded, written and read: the same again, and nothing else."""

from __future__ import annotations

import inspect
import json
import sys
import threading
import types
from pathlib import Path

import pytest

from flautim_lab.errors import BundleError
from flautim_lab.experiment.bundle import Bundle, make_bundle
from tests.experiment.conftest import Notebook, python


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

    main = types.ModuleType("__main__")
    main.__dict__.update(namespace)
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(BundleError, match="`TOKEN` holds the value of an environment variable"):
        make_bundle({"model": namespace["Net"]})
