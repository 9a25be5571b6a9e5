"""Tells how to log in once that can be done: an address that does not answer yet helps nobody."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import httpx

from hub_config import roles

LOOK_SECONDS = 0.3
#: Of the hub, and of the service behind it: through the proxy, as a browser asks.
ANSWERING = ("/hub/health", f"{roles.PREFIX}/health")


def tell_when_it_answers(
    port: int, proxy_port: int, password: str, folder: Path, look_seconds: float = LOOK_SECONDS
) -> threading.Thread:
    """Write how to log in to standard output as soon as that can be done.

    Parameters
    ----------
    port : int
        Where the hub is to answer, on loopback.
    proxy_port : int
        Where its proxy says what it leads to: it logs each question for what is not there yet.
    password : str
        Of its three users.
    folder : Path
        Where the hub's files are.
    look_seconds : float
        Between two questions whether it answers.

    Returns
    -------
    Thread
        Ends when it has told, or with the process.
    """
    url = f"http://127.0.0.1:{port}"

    def tell() -> None:
        with httpx.Client(timeout=5, trust_env=False) as client:
            while not _is_up(client, url, f"http://127.0.0.1:{proxy_port}/api/routes"):
                time.sleep(look_seconds)
        sys.stdout.write(
            f"Open {url} and log in as ana (a researcher of UFMG, with a project), "
            "bruno (a data owner of IFNMG)\nor clara (of UFMG, in no project), each "
            f"with the password {password}\n"
            f"admin's password is in {folder / 'passwords.json'}. Ctrl-C ends the hub and all its "
            "servers.\n"
        )
        sys.stdout.flush()

    thread = threading.Thread(target=tell, name="how to log in", daemon=True)
    thread.start()
    return thread


def _is_up(client: httpx.Client, url: str, routes: str) -> bool:
    token = os.environ["CONFIGPROXY_AUTH_TOKEN"]
    try:
        told = client.get(routes, headers={"Authorization": f"token {token}"})
        there = {path.rstrip("/") for path in told.raise_for_status().json()}
        return {"", roles.PREFIX} <= there and all(
            client.get(url + path).is_success for path in ANSWERING
        )
    except httpx.HTTPError:
        return False
