"""A PostgreSQL of the tests' own, where its programs are."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa

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
    folder = Path(tempfile.mkdtemp(prefix="catalog-", dir="/tmp"))
    as_root = os.getuid() == 0
    if as_root:
        os.chown(folder, NOBODY, NOBODY)
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_root else {}
    port = free_port()

    def call(program, *words):
        done = subprocess.run(
            [programs / program, *words], cwd=folder, capture_output=True, text=True, **other
        )
        assert done.returncode == 0, done.stdout + done.stderr

    data = folder / "data"
    call("initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -k {folder} -c listen_addresses='' -c fsync=off"
    call("pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
    yield f"postgresql+psycopg://tests@/postgres?host={folder}&port={port}"
    with contextlib.suppress(AssertionError):
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder, ignore_errors=True)


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
