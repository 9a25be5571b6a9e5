from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flautim_lab.errors import RecordsError
from flautim_lab.home import disk_refused, home, private_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_is_the_folder_of_the_variable_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tmp_path / "Olá 实验" / "home"
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(wanted))
    assert home() == wanted
    assert mode(wanted) == 0o700
    assert mode(wanted.parent) == 0o700
    assert home() == wanted  # again, when it is there


@pytest.mark.parametrize("value", [None, ""])
def test_is_in_the_users_home_when_the_variable_is_unset(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("FLAUTIM_LAB_HOME")
    else:
        monkeypatch.setenv("FLAUTIM_LAB_HOME", value)
    assert home() == tmp_path / ".flautim-lab"


def test_understands_a_tilde_and_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAUTIM_LAB_HOME", "~/lab")
    assert home() == tmp_path / "lab"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAUTIM_LAB_HOME", "here")
    assert home() == tmp_path / "here"


def test_a_user_that_is_nobody_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAUTIM_LAB_HOME", "~nobody-of-that-name/lab")
    with pytest.raises(RecordsError) as refused:
        home()
    assert str(refused.value) == (
        "the home folder ~nobody-of-that-name/lab cannot be found, since this user has none; "
        "set FLAUTIM_LAB_HOME to a folder"
    )


def test_keeps_the_mode_of_a_folder_that_is_there(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o750)
    private_folder(shared)
    assert mode(shared) == 0o750


@pytest.mark.parametrize("below", ["", "home", "deep/home"])
def test_a_file_in_the_way_is_one_sentence(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking = tmp_path / "notes.txt"
    blocking.write_text("mine")
    wanted = blocking / below
    monkeypatch.setenv("FLAUTIM_LAB_HOME", str(wanted))
    with pytest.raises(RecordsError) as refused:
        home()
    assert str(refused.value) == (
        f"the folder {wanted} cannot be made: {blocking} is a file, not a folder; "
        "move it away, or set FLAUTIM_LAB_HOME to a folder"
    )
    assert blocking.read_text() == "mine"


# As another user, because nothing is forbidden to root.
IN_A_FOLDER_OF_ANOTHER = """
import os, sys
from flautim_lab.errors import RecordsError
from flautim_lab.home import home
if os.getuid() == 0:
    os.setuid(65534)
try:
    home()
except RecordsError as error:
    print(error)
"""


def test_a_folder_of_another_user_is_one_sentence(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    environment = os.environ | {"FLAUTIM_LAB_HOME": str(locked / "home")}
    said = subprocess.run(
        [sys.executable, "-c", IN_A_FOLDER_OF_ANOTHER],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == (
        f"the folder {locked / 'home'} cannot be made: permission denied; "
        "set FLAUTIM_LAB_HOME to a folder that you may write to\n"
    )


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (
            errno.ENOSPC,
            "the disk that holds /x/y is full; free some space there, "
            "or set FLAUTIM_LAB_HOME to a folder on another disk",
        ),
        (
            errno.EDQUOT,
            "the disk that holds /x/y is full; free some space there, "
            "or set FLAUTIM_LAB_HOME to a folder on another disk",
        ),
        (
            errno.EROFS,
            "it stays: the disk is read-only; "
            "set FLAUTIM_LAB_HOME to a folder that you may write to",
        ),
        (
            errno.EIO,
            "it stays: Input/output error; check the disk, or set FLAUTIM_LAB_HOME to a folder",
        ),
    ],
)
def test_words_for_what_a_disk_refuses(number: int, sentence: str) -> None:
    error = OSError(number, os.strerror(number))
    assert str(disk_refused("it stays", Path("/x/y"), error)) == sentence
