"""An environment such as the hub's pod has, and the service that the hub asks."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI

from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.schema import CatalogDatabase
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.places import places_router
from flautim_lab.service.requests import refuse_in_sentences
from flautim_lab.service.settings import Settings
from flautim_lab.service.spaces import Spaces
from tests.folders import free_port

INSTITUTIONS = {
    "ufmg": {
        "name": "Federal University",
        "namespace": "of-ufmg",
        "users": ["ana", "bruno"],
        "owners": ["olga"],
        "data": "telemetry",
    },
    "ifnmg": {"name": "Institute", "namespace": "of-ifnmg", "users": ["bruno"]},
}
TOKEN = "the service's"


@contextlib.contextmanager
def served(app, port):
    """Serve an application on loopback."""
    config = uvicorn.Config(app, port=port, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


class Service:
    """The service's own route, on a catalog of the tests; ``away`` makes it answer with errors."""

    def __init__(self, folder):
        self.port, self.away = free_port(), False
        self.database = CatalogDatabase(f"sqlite:///{folder / 'catalog.db'}", 5.0)
        self.root = LocalCatalog(self.database, Actor("root", platform_admin=True))
        for key, each in INSTITUTIONS.items():
            self.root.add_institution(each["name"], key=key)
        listed = {key: each["namespace"] for key, each in INSTITUTIONS.items()}
        self.spaces = Spaces(listed, "flautim-of-")
        settings = Settings(
            self.spaces,
            token=TOKEN,
            listed=INSTITUTIONS,
        )
        self.app = FastAPI()
        refuse_in_sentences(self.app)
        self.app.include_router(
            places_router(settings, Catalogs(self.database)), prefix=settings.prefix
        )

    async def __call__(self, scope, receive, send):
        if self.away:
            await send({"type": "http.response.start", "status": 502, "headers": []})
            await send({"type": "http.response.body", "body": self.away})
        else:
            await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def one_service(tmp_path_factory):
    made = Service(tmp_path_factory.mktemp("service"))
    with served(made, made.port):
        yield made
    made.database.close()


@pytest.fixture
def service(one_service):
    yield one_service
    one_service.away = False
    one_service.spaces.know({})
    for institution in one_service.root.institutions().items:
        for each in one_service.root.users(institution.key).items:
            one_service.root.remove_user(institution.key, each.user)
        if institution.key not in INSTITUTIONS:
            one_service.root.remove_institution(institution.key)


@pytest.fixture
def environment(tmp_path):
    path = tmp_path / "institutions.json"
    path.write_text(json.dumps(INSTITUTIONS), encoding="utf-8")
    return {
        "POD_NAMESPACE": "of-hub",
        "FLAUTIM_LAB_INSTITUTIONS": str(path),
        "FLAUTIM_LAB_LOGIN_PASSWORD": "the users' own",
        "FLAUTIM_LAB_ADMIN_PASSWORD": "the admin's own, which is longer than 32",
        "FLAUTIM_LAB_SERVICE_TOKEN": TOKEN,
        "CONFIGPROXY_AUTH_TOKEN": "the proxy's",
    }
