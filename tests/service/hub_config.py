"""A real JupyterHub for the tests of the service: no proxy, no notebooks, tokens by its API."""

import json
import os

from hub_config import monitoring
from tests.service.no_proxy import NoProxy

c = get_config()  # noqa: F821 - given by traitlets
told = json.loads(os.environ["TEST_HUB"])
c.JupyterHub.bind_url = f"http://127.0.0.1:{told['public']}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{told['port']}"
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.cookie_secret = os.urandom(32)
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {"ana", "bruno", "carla", "dora"}
c.Authenticator.admin_users = {"dora"}
c.JupyterHub.load_groups = {
    "ufmg": {"users": ["ana", "bruno"]},
    "ifnmg": {"users": ["ana"]},
    "elsewhere": {"users": ["bruno"]},
}
c.JupyterHub.services = [
    {"name": "flautim-lab", "url": "http://127.0.0.1:1", "api_token": told["service"]},
    {"name": "tests", "api_token": told["tests"]},
]
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", "access:services!service=flautim-lab"]},
    {
        "name": "service",
        "scopes": ["read:users:name", "read:users:groups"],
        "services": ["flautim-lab"],
    },
    {"name": "tests", "scopes": ["admin:users", "tokens", "admin:groups"], "services": ["tests"]},
]
monitoring.configure(c, "json", told["metrics"])
