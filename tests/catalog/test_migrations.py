import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from flautim_lab.catalog import migrations
from flautim_lab.catalog.schema import CatalogDatabase, metadata
from flautim_lab.errors import CatalogError


def test_migrations_make_what_the_code_says(address):
    database = CatalogDatabase(address, 5.0)
    with database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrations.VERSION_TABLE}
        )
        assert compare_metadata(context, metadata) == []
        assert migrations.revision(connection) == migrations.NEWEST
    database.close()
    CatalogDatabase(address, 5.0).close()


def test_a_newer_catalog_is_refused(address):
    database = CatalogDatabase(address, 5.0)
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE catalog_version SET version_num = 'from the future'"))
    database.close()
    with pytest.raises(CatalogError, match="was written by a newer Flautim Lab"):
        CatalogDatabase(address, 5.0)


def test_tables_of_another_program_are_left_alone(address):
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE models (name text)"))
    engine.dispose()
    with pytest.raises(CatalogError, match="holds the tables of another program; move it away"):
        CatalogDatabase(address, 5.0)


OPEN = "import sys; from flautim_lab.catalog.schema import CatalogDatabase as D; D(sys.argv[1], 20)"


def test_several_that_open_it_first_make_it_once(address):
    begun = [subprocess.Popen([sys.executable, "-c", OPEN, address]) for _ in range(3)]
    assert [process.wait(60) for process in begun] == [0, 0, 0]


def test_what_is_no_database_is_one_sentence(tmp_path):
    path = tmp_path / "catalog.db"
    path.write_text("this is no database" * 100)
    with pytest.raises(CatalogError, match=r"catalog\.db is damaged, or is not a database"):
        CatalogDatabase(f"sqlite:///{path}", 5.0)
    with pytest.raises(CatalogError, match="the catalog cannot be kept in memory"):
        CatalogDatabase("sqlite://", 5.0)
