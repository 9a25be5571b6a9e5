"""``python provider.py``: an identity provider as a pod, with TLS; the tests' own one.

Whoever opens its page says who they are (``?as=NAME``), in place of a password.
"""

from __future__ import annotations

import json
import os

import uvicorn
from fastapi import Request
from oidc import Provider  # tests/hub_config/provider.py, beside this in the pod

PORT = 6443  # of the ports that the hub's policy lets it reach, the one that needs no right


class Pod(Provider):
    """Its users are in its environment."""

    async def authorize(self, request: Request):
        self.here = request.query_params["as"]
        return await super().authorize(request)


if __name__ == "__main__":
    provider = Pod(PORT, os.environ["CALLBACK"])
    provider.client_secret = os.environ["CLIENT_SECRET"]
    for name, groups in json.loads(os.environ["PEOPLE"]).items():
        provider.claims(name, groups)
    files = {"ssl_certfile": "/certificate/tls.crt", "ssl_keyfile": "/certificate/tls.key"}
    uvicorn.run(provider.app, host="0.0.0.0", port=PORT, log_level="warning", **files)
