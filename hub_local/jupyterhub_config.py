"""What JupyterHub reads at its start on a machine of one's own; who starts it is ``start.py``.

Login, groups, roles and the service are those of ``hub_config/``; what differs is where things run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

from hub_config import login, roles
from hub_config.institutions import read_institutions
from hub_config.places import Places
from hub_local.telling import tell_when_it_answers

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - JupyterHub's own

folder = Path(os.environ["FLAUTIM_LAB_HUB_FOLDER"])
port, proxy_port, hub_port, service_port = os.environ["FLAUTIM_LAB_HUB_PORTS"].split()
institutions = read_institutions(Path(os.environ["FLAUTIM_LAB_INSTITUTIONS"]))
notebooks = Path(__file__).parents[1] / "notebooks"

TIED = [sys.executable, "-m", "hub_local.tied"]
# JupyterLab asks its users whether it may ask its makers for news.
NO_NEWS = (
    ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
)
SERVICE = f"http://127.0.0.1:{service_port}"

# --- where the hub, its proxy and its memory are: on loopback, under one folder -------------------
c.JupyterHub.bind_url = f"http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{hub_port}"
c.JupyterHub.db_url = f"sqlite:///{folder / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
c.JupyterHub.upgrade_db = True
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [*TIED, *os.environ["FLAUTIM_LAB_PROXY"].split("\n")]
c.ConfigurableHTTPProxy.log_level = "warn"
c.ConfigurableHTTPProxy.pid_file = str(folder / "proxy.pid")
# Nothing stays behind: servers, proxy and service end with the hub.
c.JupyterHub.cleanup_servers = True
c.JupyterHub.cleanup_proxy = True

# --- who may log in ------------------------------------------------------------------------------
token = secrets.token_hex(32)
login.by_password(
    c,
    Places(institutions, f"{SERVICE}{roles.PLACES}", token),
    os.environ["FLAUTIM_LAB_LOGIN_PASSWORD"],
    os.environ["FLAUTIM_LAB_ADMIN_PASSWORD"],
)

# --- the service: catalog and records ------------------------------------------------------------
c.JupyterHub.services = [
    {
        "name": roles.SERVICE,
        "url": SERVICE,
        "api_token": token,
        "command": [*TIED, sys.executable, "-m", "flautim_lab.service"],
        "environment": {
            "FLAUTIM_LAB_HOME": str(folder / "service"),
            "FLAUTIM_LAB_INSTITUTIONS": os.environ["FLAUTIM_LAB_INSTITUTIONS"],
            "FLAUTIM_LAB_SERVICE_HOST": "127.0.0.1",
            "FLAUTIM_LAB_SERVICE_PORT": service_port,
            "FLWR_TELEMETRY_ENABLED": "0",
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ["PYTHONPATH"],
        },
        "display": False,
        "timeout": 120,  # seconds until it answers: it loads torch, maybe on a busy machine
    }
]
c.JupyterHub.load_roles = roles.ROLES


# --- notebooks: processes of this machine, each with a folder as its home -------------------------
def fill(spawner: Any) -> None:
    """Let a new home begin with the notebooks; what a user made of them is never written over."""
    home = folder / "homes" / spawner.user.name
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (home / "notebooks").exists():
        shutil.copytree(notebooks, home / "notebooks")
    if not (settings := home / NO_NEWS).exists():
        settings.parent.mkdir(parents=True)
        settings.write_text('{"fetchNews": "false", "checkForUpdates": false}', "utf-8")


c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = f"{folder}/homes/{{username}}"
c.Spawner.pre_spawn_hook = fill
c.Spawner.cmd = [*TIED, "jupyterhub-singleuser"]
c.Spawner.args = ["--allow-root"] if os.getuid() == 0 else []
c.Spawner.default_url = "/lab"
c.Spawner.env_keep = ["PATH", "PYTHONPATH", "LANG", "LC_ALL", "OMP_NUM_THREADS"]
c.Spawner.environment = {
    "FLAUTIM_LAB_SERVICE_URL": f"{SERVICE}{roles.PREFIX}",
    "FLWR_TELEMETRY_ENABLED": "0",
    # Settings of the person who started the hub are none of its users'.
    "JUPYTER_PREFER_ENV_PATH": "1",
}

tell_when_it_answers(int(port), int(proxy_port), os.environ["FLAUTIM_LAB_LOGIN_PASSWORD"], folder)
