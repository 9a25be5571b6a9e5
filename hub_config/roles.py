"""What users, notebooks and the service may do at the hub: JupyterHub's scopes."""

from __future__ import annotations

from typing import Any

SERVICE = "flautim-lab"
PREFIX = f"/services/{SERVICE}"
PLACES = f"{PREFIX}/places"  # what the hub alone may ask it
USE_THE_SERVICE = f"access:services!service={SERVICE}"

ROLES: list[dict[str, Any]] = [
    # What it learns of a user: who they are, and their institutions.
    {
        "name": "flautim-lab-service",
        "services": [SERVICE],
        "scopes": ["read:users:name", "read:users:groups"],
    },
    # JupyterHub's own two, and the right to use the service: of a user, and of a notebook's token.
    {"name": "user", "scopes": ["self", USE_THE_SERVICE]},
    {
        "name": "server",
        "scopes": ["users:activity!user", "access:servers!server", USE_THE_SERVICE],
    },
]
