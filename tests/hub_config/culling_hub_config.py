"""A real JupyterHub whose servers are processes; no proxy. The culler is started by the test."""

import json
import os
import sys
from pathlib import Path

from hub_config import culling, roles
from tests.service.no_proxy import NoProxy

c = get_config()  # noqa: F821 - given by traitlets
told = json.loads(os.environ["TEST_HUB"])
url = f"http://127.0.0.1:{told['port']}"
folder = Path.cwd()
c.JupyterHub.hub_bind_url = url
c.JupyterHub.bind_url = f"http://127.0.0.1:{told['public']}"
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.db_url = f"sqlite:///{folder / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret = os.urandom(32)
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = set(told["ports"])
c.JupyterHub.services = [
    {"name": roles.SERVICE, "url": "http://127.0.0.1:1", "api_token": told["service"]},
    {"name": "tests", "api_token": told["tests"]},
    {"name": culling.SERVICE, "api_token": told["culler"]},
]
c.JupyterHub.load_roles = [
    *roles.ROLES,
    culling.ROLE,
    {
        "name": "tests",
        "scopes": ["admin:users", "admin:servers", "access:servers", "tokens"],
        "services": ["tests"],
    },
]
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}  # all start at once
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = f"{folder}/homes/{{username}}"
c.Spawner.pre_spawn_hook = lambda spawner: setattr(
    spawner, "port", told["ports"][spawner.user.name]
)
# The singleuser server, whose extension looks within seconds.
c.Spawner.cmd = [sys.executable, "-m", "tests.hub_config.quick_server"]
c.Spawner.args = [*culling.SERVER_ARGUMENTS, *(["--allow-root"] if os.getuid() == 0 else [])]
c.Spawner.environment = {
    "JUPYTERHUB_ACTIVITY_INTERVAL": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
}
c.Spawner.env_keep = ["PATH", "PYTHONPATH"]
c.JupyterHub.cleanup_servers = True
