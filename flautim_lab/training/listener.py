"""A web server in a thread of this process, over the run's own TLS."""

from __future__ import annotations

import socket
import threading

import uvicorn
from fastapi import FastAPI

from flautim_lab.training.keys import ServerFiles


class Listener:
    """Serves an application until it is closed.

    Parameters
    ----------
    app : FastAPI
    files : ServerFiles
        TLS files of the run.
    host, port : str, int
        Where to listen; port 0 takes a free one.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(self, app: FastAPI, files: ServerFiles, host: str, port: int) -> None:
        self._socket = socket.create_server((host, port))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            ssl_certfile=str(files.certificate),
            ssl_keyfile=str(files.key),
            log_level="warning",
            access_log=False,
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=5)
        self._socket.close()
