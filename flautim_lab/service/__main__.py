"""``python -m flautim_lab.service``: the hub's service, on plain HTTP behind the hub's proxy."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn

from flautim_lab.catalog import opening
from flautim_lab.errors import FlautimError
from flautim_lab.records.store import Records
from flautim_lab.runners import databases
from flautim_lab.service import logs
from flautim_lab.service.app import make_app
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Hub
from flautim_lab.service.places import listed_roles
from flautim_lab.service.settings import Settings

#: For databases that are not up yet, or whose tables `flautim-lab migrate` is about to bring up
#: to date; then it ends, and whoever started it starts it again.
WAIT_SECONDS = 300.0
GRACE_SECONDS = 3  # that questions which wait for news are given when the service is to end
DEAF_SECONDS = 60  # after which a connection goes whose other end takes nothing in

_log = logging.getLogger("flautim_lab.service")


def main() -> int:
    """Serve until told to end; returns the exit status."""
    try:
        logs.configure()
        settings = Settings.of_environment()
        databases.wait(WAIT_SECONDS if databases.on_a_server() else 0.0, _log.warning)
        catalogs = Catalogs(opening.database(), listed=listed_roles(settings.listed))
        catalogs.add_missing(settings.names)
        app = make_app(Records.default(), settings, Hub(settings.institutions), catalogs)
    except FlautimError as error:
        _log.error("%s", error)
        return 1
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # logs.py did
        access_log=False,  # a line per look of every watch
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    listening = config.bind_socket()
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; else what is left of it waits for the end
        milliseconds = DEAF_SECONDS * 1000
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
