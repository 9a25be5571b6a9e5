"""Catalogs of every kind: the same tests run on each."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.rest import rest_catalog
from flautim_lab.catalog.schema import CatalogDatabase, metadata
from flautim_lab.catalog.things import Column, Role
from flautim_lab.connection import Service
from flautim_lab.database_rows import Restoring, rows_of, tables_of
from flautim_lab.service.catalog_routes import catalog_router
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Caller, Unknown
from flautim_lab.service.requests import refuse_in_sentences
from tests.folders import free_port

WAYS = ["sqlite", "postgresql", "rest"]


class Clock:
    """The time, as tests set it."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        self.now += 1.0  # nothing happens at the same moment
        return self.now


def run_id(number):
    """The id of a run."""
    return f"r20261125-202140-net-{number:08x}"


@dataclass
class World:
    """A catalog, as each of its users sees it."""

    database: CatalogDatabase
    clock: Clock
    listed: dict = field(default_factory=dict)  # who is what where by the hub's list

    def of(self, user, *, platform_admin=False, alone=False):
        """The catalog, as somebody may use it."""
        actor = Actor(user, platform_admin, alone)
        return LocalCatalog(self.database, actor, self.clock, self.listed)


class RestWorld(World):
    """The same by the service of a hub, on a real port."""

    url = ""

    def of(self, user, *, platform_admin=False, alone=False):
        if alone:
            pytest.skip("a hub has no sole user")
        token = f"{user}{'!' if platform_admin else ''}"
        return rest_catalog(Service(self.url, token))


class NamesAsTokens:
    """In place of a Hub (tests/service has one): a token is a name, with ! of an administrator."""

    async def caller(self, authorization):
        name = authorization.removeprefix("token").strip()
        if not name:
            raise Unknown(401, "send a token")
        return Caller(name.removesuffix("!"), name.endswith("!"), {})


class Switch:
    """Catalogs that are others in every test, for an application that is made once."""

    world = None

    def __call__(self, who):
        return Catalogs(self.world.database, self.world.clock, self.world.listed)(who)


def catalog_app(world):
    """The service's application, as far as it is the catalog's."""
    return _catalog_app(Catalogs(world.database, world.clock, world.listed))


def _catalog_app(catalogs):
    app = FastAPI(title="The catalog")
    app.state.hub = NamesAsTokens()
    refuse_in_sentences(app)
    app.include_router(catalog_router(catalogs))
    return app


@pytest.fixture(scope="session")
def served():
    """A server, and the switch to whose catalog it serves."""
    switch = Switch()
    port = free_port()
    config = uvicorn.Config(_catalog_app(switch), port=port, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield switch, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    address = request.getfixturevalue("postgresql")
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return address


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A SQLite file with the tables: copied, it saves each test the migrations."""
    path = tmp_path_factory.mktemp("catalog") / "empty.db"
    database = CatalogDatabase(f"sqlite:///{path}", 5.0)
    database.close()
    with contextlib.closing(sa.create_engine(f"sqlite:///{path}").raw_connection()) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(params=WAYS)
def world(request, tmp_path, made_once):
    """An empty catalog."""
    if request.param in ("sqlite", "rest"):
        path = tmp_path / "catalog.db"
        shutil.copy(made_once, path)
        database = CatalogDatabase(f"sqlite:///{path}", 5.0)
    else:
        database = CatalogDatabase(request.getfixturevalue("postgresql"), 5.0)
        with database.writing() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(sa.delete(table))
    made = (RestWorld if request.param == "rest" else World)(database, Clock())
    if request.param == "rest":
        switch, made.url = request.getfixturevalue("served")
        switch.world = made
    yield made
    database.close()


COLUMNS = (
    Column("speed", "number", low=0.0, high=120.0),
    Column("road", "text", values=("city", "highway")),
    Column("energy", "number", low=0.1, high=9.0, missing=True),
)
NET = "from torch import nn\n\n\nclass Net(nn.Module):\n    pass\n"


@dataclass
class People:
    """Users of two institutions, each of one kind, with a project and a dataset each."""

    world: World
    root: LocalCatalog  # the platform's administrator
    admin: LocalCatalog  # of ufmg
    ana: LocalCatalog  # a researcher of ufmg, a member of ufmg/vision
    bia: LocalCatalog  # a researcher of ufmg, no member
    davi: LocalCatalog  # a data owner of ufmg
    eva: LocalCatalog  # a data owner of ifnmg, a member of ifnmg/roads
    nobody: LocalCatalog  # of no institution


def users_of(world):
    """The users, as their roles in the catalog say."""
    root = world.of("root", platform_admin=True)
    return People(
        world, root, *(world.of(name) for name in ("carla", "ana", "bia", "davi", "eva", "zoe"))
    )


def fill(world):
    """Give an empty catalog those users, and what is theirs."""
    root = world.of("root", platform_admin=True)
    root.add_institution("Universidade Federal de Minas Gerais", key="ufmg", cnpj=UFMG)
    root.add_institution("Instituto Federal do Norte de Minas Gerais", key="ifnmg")
    root.set_roles("ufmg", "carla", [Role.INSTITUTION_ADMIN])
    for user in ("ana", "bia"):
        root.set_roles("ufmg", user, [Role.RESEARCHER])
    root.set_roles("ufmg", "davi", [Role.DATA_OWNER])
    root.set_roles("ifnmg", "eva", [Role.DATA_OWNER])
    made = users_of(world)
    made.ana.add_project("ufmg", "Vision")
    made.eva.add_project("ifnmg", "Roads")
    for owner, key in ((made.davi, "ufmg"), (made.eva, "ifnmg")):
        owner.add_dataset_version(
            key,
            "Telemetry",
            columns=COLUMNS,
            target="energy",
            rows=1000,
            path="trips.csv",
            sha256="ab" * 32,
        )
    made.ana.save_model("ufmg/vision", "Net", source=NET, class_name="Net")
    made.ana.save_experiment(
        "ufmg/vision",
        "First",
        model="ufmg/vision/net",
        dataset="ufmg/telemetry",
        settings={"rounds": 3},
    )


@pytest.fixture(scope="session")
def peopled(made_once, tmp_path_factory):
    """The rows of a catalog with those users, and its time: made once, put in for each test."""
    path = tmp_path_factory.mktemp("peopled") / "catalog.db"
    shutil.copy(made_once, path)
    database, clock = CatalogDatabase(f"sqlite:///{path}", 5.0), Clock()
    fill(World(database, clock))
    with database.reading() as connection:
        rows = {
            table.name: (table.columns.keys(), list(rows_of(connection, table)))
            for table in tables_of(database)
        }
    database.close()
    return rows, clock.now


@pytest.fixture
def people(world, peopled):
    rows, world.clock.now = peopled
    with world.database.writing() as connection:
        restoring = Restoring(connection, world.database, world.database.newest)
        for table in tables_of(world.database):
            restoring.put(table.name, *rows[table.name])
        restoring.finish()
    return users_of(world)


UFMG = "17.217.985/0001-04"
