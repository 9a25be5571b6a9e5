"""Catalog and records as a file, and back, over every pair of databases."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import math
import os
import stat
import time
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from flautim_lab.catalog import migrations, opening
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.things import Column, Role
from flautim_lab.cli import main
from flautim_lab.database import Database
from flautim_lab.database_rows import rows_of, tables_of
from flautim_lab.errors import BackupError, CatalogError, ConflictError, RecordsError
from flautim_lab.records import store
from flautim_lab.records.event import Event
from flautim_lab.runners import backup, databases

RUN = "r20261125-202140-iris-7d1947b4"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NET = "from torch import nn\n\n\nclass Net(nn.Module):\n    pass\n"


def fill():
    """Every table of the catalog and of the records gets rows, with whatever is hard to keep."""
    database = opening.database()
    root = LocalCatalog(database, Actor("root", platform_admin=True))
    root.add_institution("Universidade Federal", key="ufmg", cnpj="17.217.985/0001-04")
    root.change_institution("ufmg", logo=PNG)
    root.add_institution("Instituto 实验 'Federal'", key="ifnmg")
    root.set_roles("ufmg", "davi", [Role.DATA_OWNER])
    root.set_roles("ufmg", "ana", [Role.RESEARCHER])
    davi = LocalCatalog(database, Actor("davi"))
    ana = LocalCatalog(database, Actor("ana"))
    ana.add_project("ufmg", "Vision")
    davi.add_dataset_version(
        "ufmg",
        "Telemetry",
        columns=(Column("speed", "number", low=0.1, high=1 / 3), Column("energy", "number")),
        target="energy",
        rows=2**40,
        path="trips.csv",
        sha256="ab" * 32,
    )
    davi.give_grant("ufmg/telemetry", "ufmg/vision")
    root.set_roles("ifnmg", "eva", [Role.DATA_OWNER])
    eva = LocalCatalog(database, Actor("eva"))
    eva.add_dataset_version(
        "ifnmg", "Telemetry", columns=(Column("speed", "number"), Column("energy", "number")),
        target="energy", rows=1, path="trips.csv",
    )  # fmt: skip
    eva.change_dataset("ifnmg/telemetry", published=True)
    ana.save_model("ufmg/vision", "Net", source=NET, class_name="Net")
    ana.save_experiment(
        "ufmg/vision", "First", model="ufmg/vision/net", dataset="ufmg/telemetry",
        settings={"rounds": 3},
    )  # fmt: skip
    ana.add_run(RUN, "ufmg/vision/first")
    both = ana.save_experiment(
        "ufmg/vision", "Both", model="ufmg/vision/net", dataset="ufmg/telemetry", settings={},
        more_datasets=["ifnmg/telemetry"],
    )  # fmt: skip
    ana.ask_grant("ifnmg/telemetry", "ufmg/vision", experiment=both.ref, note="\N{PILE OF POO}")
    ana.remember("place", {"at": "ufmg/vision"})
    database.close()
    records = store.Records()
    records.create_run(
        RUN, name="iris", runner="cluster", rounds=3, clients=2,
        settings={"owner": "ana", "odd": math.nan}, plan={}, detached=True,
    )  # fmt: skip
    values = [0.1, math.nan, math.inf, -math.inf, 5e-324, None]
    events = [
        Event(n, 1.5 * n, "metric", n, 0, "train", "loss", v) for n, v in enumerate(values, 1)
    ]
    records.append(RUN, [*events, Event(9, 2.0, "log", text="olá \N{PILE OF POO}\n\ttab")])
    records.set_status(RUN, "finished")
    records.close()


def content():
    """All rows of both, as plain values."""
    with databases.both(apart=True) as opened:
        found = {}
        for each in opened:
            with each.reading() as connection:
                for table in tables_of(each):
                    found[table.name] = list(rows_of(connection, table))
        return found


@pytest.fixture
def use(tmp_path, monkeypatch, request):
    """Let catalog and records be in new databases: files, a PostgreSQL, or two of them."""
    number = iter(range(100))

    def choose(kind):
        if kind == "sqlite":
            monkeypatch.setenv("FLAUTIM_LAB_HOME", str(tmp_path / f"home{next(number)}"))
            addresses = ("", "")
        elif kind == "one file":
            addresses = (f"sqlite:///{tmp_path / f'one{next(number)}.db'}",) * 2
        else:
            make = request.getfixturevalue("new_database")
            addresses = (make(),) * 2 if kind == "postgresql" else (make(), make())
        monkeypatch.setenv("FLAUTIM_LAB_CATALOG_URL", addresses[0])
        monkeypatch.setenv("FLAUTIM_LAB_RECORDS_URL", addresses[1])

    return choose


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("sqlite", "sqlite"),
        ("sqlite", "postgresql"),
        ("postgresql", "one file"),
        ("two postgresql", "postgresql"),
    ],
)
def test_everything_comes_back_and_goes_on(use, tmp_path, source, target):
    use(source)
    fill()
    before = content()
    assert all(before.values()), [name for name, rows in before.items() if not rows]
    path, rows = backup.back_up(tmp_path / "all.jsonl.gz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {name.partition(".")[2]: number for name, number in rows.items()} == {
        name: len(each) for name, each in before.items()
    }
    use(target)
    assert backup.restore(path) == rows
    assert content() == before
    # What is read again is what was written, and new things get numbers of their own.
    assert [event.value for event in store.Records().events(RUN)][:1] == [0.1]
    root = LocalCatalog(opening.database(), Actor("root", platform_admin=True))
    root.add_institution("A third", key="third")
    assert len(root.institutions().items) == 3
    with pytest.raises(ConflictError):
        root.add_institution("Again", key="ufmg")
    # And the same rows make the same lines, wherever they are.
    use(source)
    backup.restore(path)
    again, _ = backup.back_up(tmp_path / "again.jsonl.gz")
    assert lines(again)[1:] != []
    assert lines(again)[1:-1] == lines(path)[1:-1]


def lines(path):
    return gzip.decompress(path.read_bytes()).splitlines()


def test_what_is_there_is_lost_only_when_that_is_said(use, tmp_path):
    use("sqlite")
    fill()
    path, _ = backup.back_up(tmp_path / "all.jsonl.gz")
    before = content()
    root = LocalCatalog(opening.database(), Actor("root", platform_admin=True))
    root.add_institution("A third", key="third")
    more = content()
    with pytest.raises(BackupError, match=r"there is a catalog in .* already \(rows: audit"):
        backup.restore(path)
    assert content() == more
    backup.restore(path, replace=True)
    assert content() == before


def damage(path, how):
    packed = path.read_bytes()
    told = gzip.decompress(packed)
    if how == "cut":
        path.write_bytes(packed[: len(packed) // 2])
    elif how == "end missing":
        path.write_bytes(gzip.compress(told[: told.rstrip().rindex(b"\n") + 1]))
    elif how == "changed":
        assert b'"ufmg"' in told
        path.write_bytes(gzip.compress(told.replace(b'"ufmg"', b'"ufmh"', 1)))
    elif how == "a row less":
        rows = told.splitlines(keepends=True)
        del rows[2]
        path.write_bytes(gzip.compress(b"".join(rows)))
    elif how == "newer format":
        path.write_bytes(gzip.compress(told.replace(b'"version": 1', b'"version": 2', 1)))
    elif how == "newer tables":
        header, _, rest = told.partition(b"\n")
        body = json.loads(header)
        body["tables"]["catalog"] = "9999"
        body["flautim_lab"] = "7.0.0"
        made = json.dumps(body).encode() + b"\n" + rest
        start, _, last = made.rstrip().rpartition(b"\n")
        end = json.loads(last) | {"sha256": hashlib.sha256(start + b"\n").hexdigest()}
        path.write_bytes(gzip.compress(start + b"\n" + json.dumps(end).encode() + b"\n"))
    elif how == "not ours":
        path.write_text("my notes")
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("cut", "is damaged: it cannot be read to its end"),
        ("end missing", "is damaged: it is not whole: its end is missing; take another"),
        ("changed", "is damaged: it is not what was written; take another"),
        ("a row less", "is damaged: it is not what was written"),
        ("newer format", "was written by a newer Flautim Lab (version 2 of the format"),
        ("newer tables", "is of tables 9999 of the catalog, which this Flautim Lab does not know; "
                         "restore it with flautim-lab 7.0.0 or newer"),
        ("not ours", "is no backup of Flautim Lab"),
        ("gone", "there is no file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_backup_is_said_before_anything_is_written(
    use, tmp_path, how, sentence
):
    use("sqlite")
    fill()
    path, _ = backup.back_up(tmp_path / "all.jsonl.gz")
    before = content()
    damage(path, how)
    with pytest.raises(BackupError) as refused:
        backup.restore(path, replace=True)
    assert sentence in str(refused.value)
    assert content() == before


def test_a_backup_of_older_tables_is_brought_to_the_newest(use, tmp_path, monkeypatch):
    use("sqlite")
    fill()
    path, _ = backup.back_up(tmp_path / "all.jsonl.gz")
    before = content()["institutions"]
    # As if this Flautim Lab had one migration more.
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "next.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = 'next'\ndown_revision = {migrations.NEWEST!r}\n\n\n"
        "def upgrade():\n"
        "    column = sa.Column('note', sa.Text(), nullable=False, server_default='new')\n"
        "    op.add_column('institutions', column)\n"
    )
    plain = migrations.config

    def config(connection=None):
        made = plain(connection)
        here = f"{migrations.__path__[0]}/versions"
        made.set_main_option("version_locations", f"{here};{versions}")
        made.set_main_option("path_separator", ";")
        return made

    from alembic.script import ScriptDirectory

    monkeypatch.setattr(migrations, "config", config)
    monkeypatch.setattr(migrations, "_scripts", ScriptDirectory.from_config(config()))
    monkeypatch.setattr(migrations, "NEWEST", "next")
    use("one file")
    backup.restore(path)
    assert content()["institutions"] == before
    with databases.both(apart=True) as (catalog, _), catalog.reading() as connection:
        assert catalog.found == "next"
        notes = connection.execute(sa.text("SELECT note FROM institutions")).scalars().all()
        assert notes == ["new"] * len(before)


def test_an_interrupted_restore_leaves_everything_as_it_was(use, tmp_path, monkeypatch):
    use("sqlite")
    fill()
    path, _ = backup.back_up(tmp_path / "all.jsonl.gz")
    before = content()
    put = backup.Restoring.put

    def breaks(self, name, columns, rows):
        put(self, name, columns, rows)
        if name == "events":
            raise KeyboardInterrupt

    monkeypatch.setattr(backup.Restoring, "put", breaks)
    with pytest.raises(KeyboardInterrupt):
        backup.restore(path, replace=True)
    assert content() == before


def terminate(address):
    """Let a PostgreSQL end all connections to a database but this one."""
    engine = sa.create_engine(address)
    with engine.connect() as connection:
        mine = "datname = current_database() AND pid <> pg_backend_pid()"
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}"
        connection.execute(sa.text(end))
    engine.dispose()


@pytest.mark.parametrize(
    ("lost", "moment"), [("catalog", "before"), ("catalog", "between"), ("records", "between")]
)
def test_one_of_two_databases_is_lost_at_the_end_of_a_restore(
    use, tmp_path, monkeypatch, lost, moment
):
    use("sqlite")
    fill()
    path, _ = backup.back_up(tmp_path / "all.jsonl.gz")
    before = content()
    use("two postgresql")
    databases.migrate()
    names = {"catalog": opening.URL_VARIABLE, "records": store.URL_VARIABLE}
    address, empty = os.environ[names[lost]], content()
    ask = Database.ask

    def lose(self, connection):
        if moment == "between":
            ask(self, connection)
        terminate(address)
        if moment == "before":
            ask(self, connection)

    with monkeypatch.context() as now:
        now.setattr(Database, "ask", lose)
        # Before the first is stored nothing is; between the two the error says what is where.
        halved = (lost, moment) == ("catalog", "between")
        error = BackupError if halved else (CatalogError, RecordsError)
        with pytest.raises(error) as said:
            backup.restore(path)
    if halved:
        assert "the records were restored, and the catalog in " in str(said.value)
        assert "again with --replace before anybody uses them" in str(said.value)
        assert content()["events"] == before["events"]
    else:
        assert lost in str(said.value)
        assert content() == empty
    backup.restore(path, replace=True)
    assert content() == before


def test_a_file_that_is_there_is_never_written_over(use, tmp_path):
    use("sqlite")
    databases.migrate()
    path = tmp_path / "mine.gz"
    path.write_text("mine")
    with pytest.raises(BackupError, match=r"there is a .*mine\.gz already; name another file"):
        backup.back_up(path)
    assert path.read_text() == "mine"
    with pytest.raises(BackupError, match="cannot be written: No such file or directory"):
        backup.back_up(tmp_path / "nowhere" / "x.gz")
    with pytest.raises(BackupError, match="at least 1 and goes with a folder that is there"):
        backup.back_up(path, keep=3)
    assert [each.name for each in tmp_path.iterdir() if ".part" in each.name] == []


def test_the_newest_of_a_folder_are_kept_and_nothing_else_is_touched(use, tmp_path, monkeypatch):
    use("sqlite")
    databases.migrate()
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    killed = folder / ".flautim-lab-20260101-000000.jsonl.gz.7.part"
    killed.write_text("half")
    os.utime(killed, (0, 0))
    made = []
    for day in (1, 2, 3):
        monkeypatch.setattr(backup, "NAME", f"flautim-lab-2026010{day}-000000.jsonl.gz")
        made.append(backup.back_up(folder, keep=2)[0].name)
    assert sorted(each.name for each in folder.iterdir()) == [*made[1:], "notes.txt"]


def test_on_the_command_line(use, tmp_path):
    use("sqlite")
    fill()
    call = CliRunner().invoke
    target = tmp_path / "all.jsonl.gz"
    said = "2 institutions, 1 project, 2 datasets, 1 model, 2 experiments, 1 run, 7 events"
    done = call(main, ["backup", str(target)])
    assert (done.exit_code, done.output) == (0, f"{target}: {said}\n")
    done = call(main, ["restore", "--check", str(target)])
    assert (done.exit_code, done.output) == (0, f"{target} is whole: {said}\n")
    done = call(main, ["restore", str(target)])
    assert done.exit_code == 1
    assert "there is a catalog in" in done.output
    done = call(main, ["restore", "--replace", str(target)])
    assert (done.exit_code, done.output) == (0, f"restored: {said}\n")


# --- migrations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_that_migrate_at_once(use, kind):
    """Threads, whose connections are their own; tests/catalog opens it from three processes."""
    use(kind)
    with ThreadPoolExecutor(2) as threads:
        said = [one for done in threads.map(lambda _: databases.migrate(), "ab") for one in done]
    assert sum("were made" in one for one in said) == 2  # catalog and records, once each
    assert sum("already" in one for one in said) == 2
    done = CliRunner().invoke(main, ["migrate", "--wait", "5"])
    assert done.exit_code == 0
    assert done.output.count(" already\n") == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_who_is_apart_from_migrations_changes_nothing(use, monkeypatch, kind):
    use(kind)
    monkeypatch.setenv("FLAUTIM_LAB_MIGRATIONS", "apart")
    with pytest.raises(
        CatalogError, match=r"are not there yet, and this Flautim Lab needs .*; run"
    ):
        opening.database()
    said = []
    clock = itertools.count()  # a second from each look to the next
    made = types.SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _seconds: None)
    with monkeypatch.context() as patch:
        patch.setattr(databases, "time", made)
        with pytest.raises(CatalogError, match="are not there yet"):
            databases.wait(3, said.append)
    assert len(said) == 1
    databases.migrate()
    assert databases.wait(0.0, said.append)[0].endswith("already")


def test_newer_tables_are_refused_without_waiting(use):
    use("sqlite")
    databases.migrate()
    database = opening.database()
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE catalog_version SET version_num = 'future'"))
    begin = time.monotonic()
    with pytest.raises(CatalogError, match="was written by a newer Flautim Lab"):
        databases.wait(60.0, lambda _: None)
    assert time.monotonic() - begin < 30


def test_a_database_that_comes_late_is_waited_for(use, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAUTIM_LAB_CATALOG_URL", f"sqlite:///{tmp_path}/late/c.db")
    said = []

    def say(sentence):
        said.append(sentence)
        (tmp_path / "late").mkdir()

    monkeypatch.setattr(databases, "AGAIN_SECONDS", 0.01)
    assert len(databases.migrate(20.0, say)) == 2
    assert len(said) == 1
    assert said[0].startswith("waiting: the catalog in ")
