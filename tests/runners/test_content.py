"""What an execution depends on, and what is said to have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from flautim_lab.runners.content import Content, content_of, differences


def notebook_of(*cells: str) -> Any:
    made = [nbformat.v4.new_markdown_cell("# told")]
    return nbformat.v4.new_notebook(cells=made + [nbformat.v4.new_code_cell(c) for c in cells])


def stamped(content: Content) -> dict[str, Any]:
    return {
        "code": content.code,
        "files": dict(content.files),
        "versions": dict(content.versions),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "iris.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.csv").write_text("a\n")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "1.txt").write_text("x")
    (tmp_path / "own.py").write_text("import deeper\n")
    (tmp_path / "deeper.py").write_text("DATA = 'other.csv'\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "part.py").write_text("x = 1\n")
    (tmp_path / "a.ipynb").write_text("{}")
    return tmp_path


CELLS = (
    "%matplotlib inline\nimport numpy, own\nfrom pkg import part",
    "data = 'iris.csv'\nhere = '.'\nlong = 'x' * 3",
    "%%model Net\nclass Net: ...\nrows = 'rows'\nnothing = '\\0'",
    "this is no Python",
)


def test_what_is_looked_at(folder: Path) -> None:
    content = content_of(notebook_of(*CELLS), folder, {"extra": "a.ipynb"})
    assert set(content.files) == {"iris.csv", "other.csv", "rows", "a.ipynb"}
    assert {"python", "numpy", "torch", "flwr"} <= set(content.versions)
    assert differences(stamped(content), content, folder) == []
    again = notebook_of(*CELLS)
    again.cells[0].source = "# told in other words"
    assert content_of(again, folder, {"extra": "a.ipynb"}) == content
    assert content.data == content_of(again, folder, {"extra": "a.ipynb"}).data


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("iris.csv", "a,b\n1,3\n", ["iris.csv"]),
        ("other.csv", "b\n", ["other.csv"]),
        ("rows/2.txt", "y", ["rows"]),
        ("own.py", "import deeper # else\n", ["the code"]),
        ("deeper.py", "DATA = 'other.csv' # else\n", ["the code"]),
        ("pkg/part.py", "x = 2\n", ["the code"]),
        ("unseen.csv", "new", []),
    ],
)
def test_what_has_changed_is_named(folder: Path, path: str, text: str, told: list[str]) -> None:
    before = stamped(content_of(notebook_of(*CELLS), folder, {}))
    (folder / path).write_text(text)
    now = content_of(notebook_of(*CELLS), folder, {})
    assert differences(before, now, folder) == told


def test_code_versions_and_files_that_are_gone(folder: Path) -> None:
    content = content_of(notebook_of(*CELLS), folder, {})
    before = stamped(content)
    before["versions"] |= {"numpy": "1.0", "gone": "2"}
    (folder / "iris.csv").unlink()
    now = content_of(notebook_of(*CELLS[:3]), folder, {})
    assert differences(before, now, folder) == [
        "the code",
        "iris.csv",
        "gone (2 to none)",
        f"numpy (1.0 to {content.versions['numpy']})",
    ]


def test_a_file_that_the_notebook_itself_wrote_is_no_change(folder: Path) -> None:
    cells = ["open('out.csv', 'w').write('1')"]
    before = content_of(notebook_of(*cells), folder, {})
    (folder / "out.csv").write_text("1")
    now = content_of(notebook_of(*cells), folder, {})
    assert now != before
    assert differences(stamped(before), now, folder) == []
