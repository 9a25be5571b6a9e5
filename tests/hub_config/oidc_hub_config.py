"""A real JupyterHub with the hub's own login by a provider; no proxy, no notebooks."""

import os
from pathlib import Path

from jupyterhub.user import User

from hub_config import login
from hub_config.places import Places
from hub_config.settings import Settings
from tests.service.no_proxy import NoProxy

c = get_config()  # noqa: F821 - given by traitlets
settings = Settings.of_environment(os.environ)
places = Places(settings.institutions, "http://127.0.0.1:1/places", settings.service_token)
login.by_provider(c, places, settings.oidc)
# Claims are read again at every request; after minutes, where nothing is tested.
User._auth_refreshed = property(lambda self: None, lambda self, when: None)

c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['HUB_PORT']}"
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['HUB_PUBLIC_PORT']}"
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.db_url = f"sqlite:///{Path.cwd() / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret = os.urandom(32)
c.JupyterHub.services = [{"name": "tests", "api_token": settings.service_token}]
c.JupyterHub.load_roles = [
    {"name": "tests", "scopes": ["admin:users", "tokens", "admin:groups"], "services": ["tests"]},
]
