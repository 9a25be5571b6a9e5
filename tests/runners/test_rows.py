"""Which line of a data file has changed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from flautim_lab.runners import rows
from flautim_lab.runners.rows import MARKS, how_it_changed, keep_marks

BEFORE = "a,b\n1,2\n3,4\n5,6\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text(BEFORE)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    keep_marks(tmp_path / "run", ["data.csv", "picture.png", "none.csv", "run", "\0"], tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("now", "where"),
    [
        (BEFORE, ""),
        (BEFORE.replace("3,4", "3,5"), ", first in line 3"),
        (BEFORE.replace("a,b", "a,c"), ", first in line 1"),
        (BEFORE + "7,8\n9,9\n", ": 2 lines more at its end"),
        ("a,b\n1,2\n3,4\n", ": 1 line fewer at its end"),
        ("", ": 4 lines fewer at its end"),
    ],
)
def test_the_first_line_that_is_another(folder: Path, now: str, where: str) -> None:
    (folder / "data.csv").write_text(now)
    assert how_it_changed(folder / "run", "data.csv", folder) == f"data.csv has changed{where}"


def test_long_files_share_marks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rows, "MOST_MARKS", 4)
    lines = [str(number) for number in range(10)]
    (folder / "data.csv").write_text("\n".join(lines))
    keep_marks(folder / "run", ["data.csv"], folder)
    lines[7] = "x"
    (folder / "data.csv").write_text("\n".join(lines))
    assert how_it_changed(folder / "run", "data.csv", folder) == (
        "data.csv has changed, first in lines 7 to 9"
    )
    lines[7] = "7"
    (folder / "data.csv").write_text("\n".join(lines[:6]))
    assert how_it_changed(folder / "run", "data.csv", folder) == (
        "data.csv has changed: about 6 lines fewer at its end"
    )


def test_what_is_not_marked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = folder / "run" / MARKS
    assert stat.S_IMODE(marks.stat().st_mode) == 0o600  # a line could be guessed from its mark
    assert how_it_changed(folder / "run", "picture.png", folder) == "picture.png has changed"
    assert how_it_changed(folder / "other", "data.csv", folder) == "data.csv has changed"
    (folder / "data.csv").unlink()
    assert how_it_changed(folder / "run", "data.csv", folder) == "data.csv has changed"
    marks.write_text('{"data.csv": {"together": "x"}}')
    assert how_it_changed(folder / "run", "data.csv", folder) == "data.csv has changed"
    monkeypatch.setattr(rows, "MOST_BYTES", 3)
    (folder / "data.csv").write_text(BEFORE)
    keep_marks(folder / "second", ["data.csv"], folder)
    assert not (folder / "second").exists()
