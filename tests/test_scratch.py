"""Folders for a moment are gone afterwards, and after the death of their process too."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import tempfile

import pytest

from flautim_lab.scratch import PREFIX, remove_abandoned, scratch_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The system's folder for temporary files, of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def killed_within(place):
    """Let a process be killed while it works in a folder."""
    child = os.fork()
    if child == 0:
        with scratch_folder(place) as folder:
            (folder / "table.csv").write_text("a\n1\n")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_folder_is_empty_private_and_gone_afterwards(place):
    with scratch_folder() as folder:
        assert folder.is_relative_to(place)
        assert list(folder.iterdir()) == []
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        (folder / "table.csv").write_text("a\n1\n")
    assert list(place.iterdir()) == []


def test_an_error_leaves_nothing(place):
    def broken():
        with scratch_folder() as folder:
            (folder / "table.csv").write_text("a\n1\n")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_folder(place):
    killed_within(place)
    (left,) = place.iterdir()
    assert (left / "content" / "table.csv").exists()
    with scratch_folder() as folder:
        assert list(place.iterdir()) == [folder.parent]


def test_a_folder_that_somebody_works_in_stays(place):
    with scratch_folder() as mine, scratch_folder() as other:
        (mine / "kept").touch()
        remove_abandoned(place)
        assert (mine / "kept").exists()
        assert other.exists()


@pytest.mark.parametrize("content", ["notes.txt", "lock/notes.txt"])
def test_what_was_not_made_here_stays(place, content):
    folder = place / f"{PREFIX}abcdefgh"
    (folder / content).parent.mkdir(parents=True)
    (folder / content).touch()
    longer = place / f"{PREFIX}of-my-own"
    longer.mkdir()
    with scratch_folder():
        assert (folder / content).exists()
        assert longer.exists()


def test_a_link_is_not_followed(place, tmp_path):
    killed_within(tmp_path)
    (left,) = tmp_path.glob(f"{PREFIX}*")
    (place / f"{PREFIX}abcdefgh").symlink_to(left)
    remove_abandoned(place)
    assert (left / "content" / "table.csv").exists()


def test_one_that_was_killed_before_it_had_the_lock_goes(place):
    (place / f"{PREFIX}abcdefgh").mkdir(mode=0o700)
    remove_abandoned(place)
    assert list(place.iterdir()) == []


def test_whose_folder_is_taken_for_abandoned_makes_another(place, monkeypatch):
    make, taken = tempfile.mkdtemp, []

    def mkdtemp(*args, **options):
        made = make(*args, **options)
        if not taken:
            taken.append(made)
            remove_abandoned(place)  # another process, before the lock
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with scratch_folder() as folder:
        assert str(folder.parent) != taken[0]
        assert list(place.iterdir()) == [folder.parent]


def test_a_disk_without_locks_keeps_what_was_left(place, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_folder() as folder:
        remove_abandoned(place)
        assert folder.exists()
    assert list(place.iterdir()) == []
