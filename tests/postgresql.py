"""A PostgreSQL of the tests' own, where its programs are."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from flautim_lab.scratch import scratch_folder
from flautim_lab.training.orphans import die_with_parent
from tests.folders import free_port

NOBODY = 65534  # PostgreSQL refuses to be run by root


def postgresql_programs():
    """The folder with PostgreSQL's programs, or None."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@pytest.fixture(scope="session")
def postgresql():
    """The address of a PostgreSQL of these tests' own, on a socket in a folder of its own."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (apt install postgresql)")
    # Not in pytest's folders: the path of a socket has 107 bytes at most.
    with scratch_folder(Path("/tmp"), "fl-postgresql-") as folder:
        yield from _served(programs, folder)


def _served(programs, folder):
    as_root = os.getuid() == 0
    if as_root:
        folder.parent.chmod(0o711)
        os.chown(folder, NOBODY, NOBODY)
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_root else {}
    port = free_port()

    data, log = folder / "data", folder / "log"
    make = ["initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--locale=C"]
    done = subprocess.run(
        [programs / make[0], *make[1:]], cwd=folder, capture_output=True, text=True, **other
    )
    assert done.returncode == 0, done.stdout + done.stderr
    options = ["-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses="]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [programs / "postgres", *options, "-c", "fsync=off"],
            cwd=folder, stdout=output, stderr=output, **other,
            # It goes with these tests, however they end.
            preexec_fn=functools.partial(die_with_parent, how=signal.SIGQUIT),
        )  # fmt: skip
    ready = [programs / "pg_isready", "-q", "-h", folder, "-p", str(port)]
    try:
        end = time.monotonic() + 30
        while subprocess.run(ready).returncode:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield f"postgresql+psycopg://tests@/postgres?host={folder}&port={port}"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)


@pytest.fixture
def new_database(postgresql):
    """Make an empty database of that server; returns its address."""
    made = []

    def make():
        name = f"t{secrets.token_hex(6)}"
        _execute(postgresql, f"CREATE DATABASE {name}")
        made.append(name)
        return postgresql.replace("/postgres?", f"/{name}?")

    yield make
    for name in made:
        _execute(postgresql, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(address, statement):
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
