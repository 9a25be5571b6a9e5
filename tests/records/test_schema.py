from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from flautim_lab.database import insert_new
from flautim_lab.errors import RecordsError
from flautim_lab.records.schema import (
    SCHEMA_VERSION,
    RecordsDatabase,
    events,
    metadata,
    metric_key,
    runs,
    version,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.db"


@pytest.fixture
def database(file: Path) -> Iterator[RecordsDatabase]:
    database = open_(file)
    yield database
    database.close()


def open_(file: Path, timeout_seconds: float = 5.0) -> RecordsDatabase:
    return RecordsDatabase(sa.URL.create("sqlite", database=str(file)), timeout_seconds)


def refusal(file: Path, timeout_seconds: float = 5.0) -> str:
    with pytest.raises(RecordsError) as refused:
        open_(file, timeout_seconds)
    assert refused.value.__cause__ is None
    return str(refused.value)


def test_a_new_file_is_for_its_owner_alone_and_in_wal_mode(
    database: RecordsDatabase, file: Path
) -> None:
    assert database.where == str(file)
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
        assert connection.scalar(sa.select(version.c.version)) == SCHEMA_VERSION
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"records.db": 0o600, "records.db-wal": 0o600, "records.db-shm": 0o600}


def test_a_file_that_is_there_keeps_its_mode(database: RecordsDatabase, file: Path) -> None:
    database.close()
    file.chmod(0o660)
    open_(file).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o660


@pytest.mark.parametrize("name", ["what? 100%#.db", "Olá 实验.db", "a b&c=d.db"])
def test_any_file_name(name: str, tmp_path: Path) -> None:
    open_(tmp_path / name).close()
    assert (tmp_path / name).exists()


def test_stays_where_it_was_when_the_folder_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = RecordsDatabase("sqlite:///here.db", 5.0)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    database.close()
    with database.reading() as connection:
        assert connection.scalar(sa.select(version.c.version)) == SCHEMA_VERSION
    database.close()
    assert not (tmp_path / "below" / "here.db").exists()


OPEN_AT_ONCE = """
import sys
import sqlalchemy as sa
from flautim_lab.records.schema import RecordsDatabase
address = sa.URL.create("sqlite", database=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
RecordsDatabase(address, 20.0).close()
print("open", flush=True)
"""


def test_several_processes_make_it_at_the_same_time(file: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AT_ONCE, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate() == ("open\n", "")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT version FROM records_version").fetchall() == [(1,)]


def test_newer_records_are_refused_in_one_sentence(database: RecordsDatabase, file: Path) -> None:
    with database.writing() as connection:
        connection.execute(sa.update(version).values(version=7))
    database.close()
    assert refusal(file) == (
        f"the records in {file} were written by a newer Flautim Lab (version 7 of the tables, "
        "this one reads 1); update flautim-lab, or set FLAUTIM_LAB_HOME to a folder of its own"
    )


def test_a_file_that_is_no_database_is_one_sentence(file: Path) -> None:
    file.write_text("my notes, and no database at all\n" * 100)
    assert refusal(file) == (
        f"{file} is damaged, or is not a database; move it away (a new one is made), "
        "or set FLAUTIM_LAB_HOME to a folder of its own"
    )
    assert file.read_text().startswith("my notes")


def test_the_database_of_another_program_is_one_sentence(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE runs (distance REAL)")
    assert refusal(file) == (
        f"{file} holds the tables of another program; move it away, "
        "or set FLAUTIM_LAB_HOME to a folder of its own"
    )


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "records.db"
    assert refusal(file) == (
        f"the records in {file} cannot be opened for writing (unable to open database file); "
        "change the permissions of that file and its folder, "
        "or set FLAUTIM_LAB_HOME to a folder of your own"
    )


AS_ANOTHER_USER = """
import os, sys
import sqlalchemy as sa
from flautim_lab.errors import RecordsError
from flautim_lab.records.schema import RecordsDatabase, version
if os.getuid() == 0:
    os.setuid(65534)
try:
    url = sa.URL.create("sqlite", database=sys.argv[1])
    with RecordsDatabase(url, 1.0).writing() as connection:
        connection.execute(sa.update(version).values(version=1))
except RecordsError as error:
    print(error)
"""


def test_a_file_of_another_user_is_one_sentence(database: RecordsDatabase, file: Path) -> None:
    database.close()
    file.chmod(0o400)
    said = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, str(file)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(f"the records in {file} cannot be opened for writing (")
    assert said.endswith(
        "); change the permissions of that file and its folder, "
        "or set FLAUTIM_LAB_HOME to a folder of your own\n"
    )


def test_locked_for_too_long_is_one_sentence(file: Path) -> None:
    open_(file).close()
    database = open_(file, timeout_seconds=0.1)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordsError) as refused, database.writing():
            pass
        with database.reading() as connection:  # a reader does not wait for a writer
            assert connection.scalar(sa.select(version.c.version)) == SCHEMA_VERSION
    assert str(refused.value) == (
        f"the records in {file} have been locked by another program for 0.1 s; "
        "end that program, and try again"
    )
    with database.writing() as connection:
        connection.execute(sa.update(version).values(version=SCHEMA_VERSION))
    database.close()


def test_a_new_file_that_another_program_holds_is_one_sentence(file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert refusal(file, timeout_seconds=0.1) == (
            f"the records in {file} have been locked by another program for 0.1 s; "
            "end that program, and try again"
        )


def test_waits_for_a_program_that_is_making_the_file(file: Path) -> None:
    with closing(sqlite3.connect(file, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        released = threading.Timer(0.3, other.rollback)
        released.start()
        open_(file).close()  # SQLite itself would refuse to switch to WAL without waiting
        released.join()


def test_a_full_database_is_one_sentence_and_keeps_what_it_has(
    database: RecordsDatabase, file: Path
) -> None:
    def write_too_much() -> None:
        with database.writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.exec_driver_sql("CREATE TABLE more AS SELECT hex(randomblob(100000))")

    with pytest.raises(RecordsError) as refused:
        write_too_much()
    assert str(refused.value) == (
        f"the disk that holds {file} is full; free some space there, "
        "or set FLAUTIM_LAB_HOME to a folder on another disk"
    )
    with database.reading() as connection:
        assert set(sa.inspect(connection).get_table_names()) == set(metadata.tables)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "my records",
            "'my records' is not the address of a database; write it like "
            "sqlite:////folder/records.db or postgresql+psycopg://user@host/database",
        ),
        (
            "postgres//me:secret@host:x/y",
            "'postgres//***@host:x/y' is not the address of a database; write it like "
            "sqlite:////folder/records.db or postgresql+psycopg://user@host/database",
        ),
        ("mysql://host/x", "no database named 'mysql'; choose one of: sqlite, postgresql"),
        (
            "postgresq://host/x",
            "no database named 'postgresq'; did you mean 'postgresql'? "
            "choose one of: sqlite, postgresql",
        ),
        (
            "sqlite://",
            "the records cannot be kept in memory, where no other program would see them; "
            "write the address like sqlite:////folder/records.db",
        ),
        (
            "postgresql+nothing://me:secret@host/x",
            "the records in postgresql+nothing://me:***@host/x cannot be opened: "
            "Can't load plugin: sqlalchemy.dialects:postgresql.nothing",
        ),
    ],
)
def test_a_wrong_address_is_one_sentence_without_its_password(address: str, sentence: str) -> None:
    with pytest.raises(RecordsError) as refused:
        RecordsDatabase(address, 1.0)
    assert str(refused.value) == sentence


def test_a_missing_driver_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(RecordsError) as refused:
        RecordsDatabase("postgresql+psycopg://me:secret@host/x", 1.0)
    assert str(refused.value) == (
        "the records in postgresql+psycopg://me:***@host/x need the Python package 'psycopg', "
        "which is not installed; pip install psycopg"
    )


# --- both dialects --------------------------------------------------------------------------


def sql(statement: sa.Executable | sa.schema.DDLElement, dialect: sa.Dialect) -> str:
    return " ".join(str(statement.compile(dialect=dialect)).split())


def test_the_tables_of_postgresql() -> None:
    dialect = postgresql.dialect()
    made = sql(CreateTable(events), dialect)
    assert 'run_id VARCHAR COLLATE "C" NOT NULL' in made
    assert "seq BIGINT NOT NULL" in made
    assert "value DOUBLE PRECISION" in made
    assert "PRIMARY KEY (run_id, seq)" in made
    assert "FOREIGN KEY(run_id) REFERENCES runs (id)" in made
    assert "stop_requested BOOLEAN NOT NULL" in sql(CreateTable(runs), dialect)
    assert sql(CreateIndex(metric_key), dialect) == (
        "CREATE UNIQUE INDEX events_metric_once ON events (run_id, round, client, split, name) "
        "WHERE kind = 'metric'"
    )


def test_the_tables_of_sqlite() -> None:
    dialect = sqlite.dialect()
    assert sql(CreateTable(events), dialect).endswith("WITHOUT ROWID")
    assert sql(CreateIndex(metric_key), dialect) == (
        "CREATE UNIQUE INDEX events_metric_once ON events (run_id, round, client, split, name) "
        "WHERE kind = 'metric'"
    )


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_what_is_there_is_passed_over(name: str) -> None:
    dialect = {"sqlite": sqlite.dialect(), "postgresql": postgresql.dialect()}[name]
    statement = insert_new(events, name).returning(events.c.seq)
    assert sql(statement, dialect).endswith("ON CONFLICT DO NOTHING RETURNING seq") or sql(
        statement, dialect
    ).endswith("ON CONFLICT DO NOTHING RETURNING events.seq")


# --- forks ----------------------------------------------------------------------------------

IN_A_FORKED_PROCESS = """
import gc, os, sys
import sqlalchemy as sa
from flautim_lab import database as databases
from flautim_lab.records import schema
address = sa.URL.create("sqlite", database=sys.argv[1])
database = schema.RecordsDatabase(address, 5.0)
closed = []
sa.event.listen(database._engine, "close", lambda *_: closed.append(os.getpid()))
child = os.fork()
if child == 0:
    # Nobody but the list of what was inherited keeps the parent's connection open now.
    engine = database._engine
    kept = any(each is engine for each in databases._inherited)
    del engine, database
    gc.collect()
    os._exit(0 if kept and not closed else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(databases._inherited))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which this system lacks")
def test_a_forked_process_does_not_even_close_what_it_inherits(file: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", IN_A_FORKED_PROCESS, str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "0 0\n"
