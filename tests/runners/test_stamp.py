"""The stamp in an executed notebook."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from flautim_lab.errors import NotebookError
from flautim_lab.runners.stamp import read_stamp, stamp


def test_what_is_stamped_is_read_again_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("'é 实'")])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python"}
    nbformat.write(made, path)
    path.chmod(0o644)
    assert read_stamp(path) == {}
    facts = {"parameters": {"lr": 0.1, "name": "é\nb"}, "runs": ["r1"], "seed": None}
    stamp(path, facts)
    stamp(path, {**facts, "status": "finished"})
    assert read_stamp(path) == {**facts, "status": "finished"}
    again = nbformat.read(path, as_version=4)
    nbformat.validate(again)
    assert again.cells[0].source == "'é 实'"
    assert again.metadata.kernelspec.name == "python3"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "[1]", '{"cells": 3}', '{"cells": [], "metadata": 1}'])
def test_what_is_no_notebook(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    for call in (lambda: read_stamp(path), lambda: stamp(path, {})):
        with pytest.raises(NotebookError, match=f"^{re.escape(repr(str(path)))} cannot be read"):
            call()
    assert path.read_text() == content
    with pytest.raises(NotebookError, match="No such file or directory"):
        read_stamp(tmp_path / "none.ipynb")
