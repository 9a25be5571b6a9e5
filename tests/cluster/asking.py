"""Somebody before a hub on a cluster, without a browser: forms, cookies and tokens."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.cluster.hub import Hub, kubectl
from tests.cluster.waiting import PATIENCE, wait_until

SERVICE = "/services/flautim-lab"


class Asking:
    """A client that keeps cookies, and sends back the one that JupyterHub wants to see twice."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.client = httpx.Client(base_url=hub.url, trust_env=False, timeout=60)
        self._token = ""

    def close(self) -> None:
        self.client.close()

    def by_password(self, user: str) -> Asking:
        """Log in with the password of the user, or else that of all."""
        password = self.hub.passwords.get(user, self.hub.passwords[""])
        self.client.get("/hub/login")
        form = {"username": user, "password": password, "_xsrf": self._xsrf}
        answer = self.client.post("/hub/login", data=form)
        assert answer.status_code == 302, _said(answer)
        return self._logged_in(user)

    def by_provider(self, user: str, provider: httpx.Client) -> Asking:
        """Log in as a browser does that the provider knows already."""
        self.client.get("/hub/login")
        begun = self.client.get("/hub/oauth_login", params={"next": "/hub/home"})
        assert begun.status_code == 302, _said(begun)
        asked = urlsplit(begun.headers["location"])
        told = provider.get(asked.path, params={"as": user} | _flat(asked.query))
        back = urlsplit(told.headers["location"])
        answer = self.client.get(f"{back.path}?{back.query}")
        assert answer.status_code == 302, _said(answer)
        return self._logged_in(user)

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask the Hub's own API."""
        headers = {"Authorization": f"token {self._token}"}
        return self.client.request(method, f"/hub/api{path}", headers=headers, **more)

    def service(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask the service."""
        headers = {"Authorization": f"token {self._token}"}
        return self.client.request(method, f"{SERVICE}{path}", headers=headers, **more)

    def start(self, user: str) -> float:
        """Start the user's notebook pod; returns the seconds until it is ready."""
        begin = time.monotonic()
        answer = self.api("POST", f"/users/{user}/server")
        assert answer.status_code in (201, 202), answer.text
        while not self._server(user).get("ready"):
            assert time.monotonic() < begin + PATIENCE, self._server(user)
            time.sleep(0.5)
        return time.monotonic() - begin

    def stop(self, user: str) -> None:
        """Stop the user's notebook pod, and wait until it is gone."""
        self.api("DELETE", f"/users/{user}/server")
        end = time.monotonic() + PATIENCE
        while self._server(user):
            assert time.monotonic() < end
            time.sleep(0.5)

    def _server(self, user: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", f"/users/{user}").json()["servers"].get("", {})
        return found

    @property
    def _xsrf(self) -> str:
        return next(each.value or "" for each in self.client.cookies.jar if each.name == "_xsrf")

    def _logged_in(self, user: str) -> Asking:
        self.client.get("/hub/home")  # a cookie of somebody who is logged in
        asked = self.client.post(
            f"/hub/api/users/{user}/tokens", params={"_xsrf": self._xsrf}, json={}
        )
        assert asked.status_code == 201, _said(asked)
        self._token = asked.json()["token"]
        # The hub tells the proxy where the service is when it looks: within 20 s.
        wait_until(lambda: self.service("GET", "/ready").status_code == 200, "the service's route")
        return self


def _said(answer: httpx.Response) -> str:
    """What a page says, without its markup."""
    main = answer.text.partition('<div class="error">')[2] or answer.text
    words = re.sub(r"<script.*?</script>|<[^>]+>", " ", main, flags=re.DOTALL)
    return f"{answer.status_code} {answer.url}: {' '.join(words.split())[:500]}"


def _flat(query: str) -> dict[str, str]:
    return {key: value for key, (value, *_) in parse_qs(query).items()}


def in_a_notebook(namespace: str, user: str, source: str) -> str:
    """Return what Python says in a user's notebook pod."""
    pod = f"jupyter-{user}"
    return kubectl("exec", "-n", namespace, pod, "--", "python", "-c", source)
