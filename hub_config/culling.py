"""Ending notebooks that nobody uses: jupyterhub-idle-culler as a service of the hub.

What counts as use is said by each notebook's server, which tells the hub every few minutes: cells
that compute and runs under way do, with a browser and without (``flautim_lab/jupyter/activity.py``
in its image). ``python -m hub_config.culling SECONDS ...`` waits, and is the culler then.
"""

from __future__ import annotations

import sys
import time
from typing import Any

SERVICE = "idle-culler"
#: What it reads and does, and nothing else.
ROLE: dict[str, Any] = {
    "name": SERVICE,
    "services": [SERVICE],
    "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
}
#: Lets a notebook's server count what computes as activity; without a browser, too.
SERVER_ARGUMENTS = ["--ServerApp.jpserver_extensions=flautim_lab.jupyter.activity=True"]
#: A hub that was away for hours knows of no activity since; servers tell it every 5 minutes.
FIRST_LOOK_SECONDS = 900
LOOK_SECONDS = 120


def service(
    idle_seconds: int,
    api_url: str,
    first_look_seconds: float = FIRST_LOOK_SECONDS,
    look_seconds: int = LOOK_SECONDS,
) -> dict[str, Any]:
    """Return the service, as JupyterHub has it in its configuration.

    Parameters
    ----------
    idle_seconds : int
        Without activity for so long, a server is ended.
    api_url : str
        Of the hub, as this service of its own reaches it.
    first_look_seconds : float
        After the hub's start.
    look_seconds : int
        Between two looks.
    """
    options = [f"--timeout={idle_seconds}", f"--cull-every={look_seconds}", f"--url={api_url}"]
    return {
        "name": SERVICE,
        "command": [sys.executable, "-m", __name__, str(first_look_seconds), *options],
        "display": False,
    }


if __name__ == "__main__":
    from jupyterhub_idle_culler import IdleCuller

    time.sleep(float(sys.argv.pop(1)))
    IdleCuller.launch_instance()
