"""Login by an identity provider: a real JupyterHub, a real code flow, and claims that change."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.folders import free_port
from tests.hub_config.conftest import served
from tests.hub_config.provider import Provider

HERE = Path(__file__).parent
LISTED = {
    "ufmg": {"name": "Federal University", "namespace": "of-ufmg"},
    "ifnmg": {"name": "Institute", "namespace": "of-ifnmg"},
    "u": {"name": "One letter", "namespace": "of-u"},
}


class OidcHub:
    """A JupyterHub before a provider."""

    def __init__(self, folder, provider, port):
        self.provider, self.folder = provider, folder
        self.url = f"http://127.0.0.1:{port}/hub"
        self.token = secrets.token_hex(32)
        (folder / "institutions.json").write_text(json.dumps(LISTED))
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parents[1]),
            "HUB_PORT": str(port),
            "HUB_PUBLIC_PORT": str(free_port()),
            "POD_NAMESPACE": "of-hub",
            "CONFIGPROXY_AUTH_TOKEN": "the proxy's",
            "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
            "FLAUTIM_LAB_INSTITUTIONS": str(folder / "institutions.json"),
            "FLAUTIM_LAB_SERVICE_TOKEN": self.token,
            "FLAUTIM_LAB_LOGIN": "oidc",
            "FLAUTIM_LAB_OIDC_NAME": "the tests' provider",
            "FLAUTIM_LAB_OIDC_AUTHORIZE_URL": f"{provider.url}/authorize",
            "FLAUTIM_LAB_OIDC_TOKEN_URL": f"{provider.url}/token",
            "FLAUTIM_LAB_OIDC_USERDATA_URL": f"{provider.url}/userinfo",
            "FLAUTIM_LAB_OIDC_CALLBACK_URL": provider.callback,
            "FLAUTIM_LAB_OIDC_CLIENT_ID": provider.client_id,
            "FLAUTIM_LAB_OIDC_CLIENT_SECRET": provider.client_secret,
            "FLAUTIM_LAB_OIDC_ADMIN_GROUP": "hub-admins",
            # What oauthenticator would read itself.
            "OAUTH_TLS_VERIFY": "0",
        }
        command = [sys.executable, "-m", "jupyterhub", "--config", HERE / "oidc_hub_config.py"]
        self.log = folder / "hub.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/api", trust_env=False).status_code == 200:
                    return
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def ask(self, method, path, token=None, **more):
        headers = {"Authorization": f"token {token or self.token}"}
        url = f"{self.url}/api{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, timeout=20, **more)

    def user(self, name):
        """What the Hub knows of somebody."""
        answer = self.ask("GET", f"/users/{name}")
        return answer.json() if answer.status_code == 200 else None

    def end(self):
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    port = free_port()
    provider = Provider(free_port(), f"http://127.0.0.1:{port}/hub/oauth_callback")
    with served(provider.app, int(provider.url.rpartition(":")[2])):
        made = OidcHub(tmp_path_factory.mktemp("oidc"), provider, port)
        try:
            yield made
        finally:
            made.end()


class Browser:
    """Somebody's browser, as far as logging in needs one."""

    def __init__(self, hub):
        self.hub = hub
        self.client = httpx.Client(trust_env=False, follow_redirects=True, timeout=20)

    def log_in(self, name):
        self.hub.provider.here = name
        return self.client.get(f"{self.hub.url}/oauth_login", params={"next": "/hub/home"})

    def at_home(self):
        """Whether they are let into the Hub's own page, without another login."""
        answer = self.client.get(f"{self.hub.url}/home", follow_redirects=False)
        return answer.status_code == 200


@pytest.fixture
def browser(hub):
    made = Browser(hub)
    yield made
    made.client.close()
    hub.provider.away = False


def text(answer):
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())


def test_who_is_in_an_institution_logs_in(hub, browser):
    hub.provider.claims("ana", ["students", "ufmg", "hub-users"])
    assert not browser.at_home()
    answer = browser.log_in("ana")
    assert (answer.status_code, answer.url.path) == (200, "/hub/home")
    ana = hub.user("ana")
    assert (ana["groups"], ana["admin"]) == (["ufmg"], False)  # nothing else of her groups
    assert browser.at_home()


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("zoe", []),
        ("yara", ["students", "UFMG", "/ufmg", "hub-admin"]),
        ("xena", "u"),  # a text is no list, and no letter of it a group
        ("wanda", {"ufmg": True}),
        ("vera", None),
    ],
)
def test_who_is_in_none_is_refused_with_a_sentence(hub, browser, name, groups):
    hub.provider.claims(name, groups)
    answer = browser.log_in(name)
    assert answer.status_code == 403
    sentence = (
        f"{name} is in no institution of this hub (ufmg, ifnmg, u) by the tests&#39; provider; ask "
        "who looks after your account there to add you to yours"
    )
    assert sentence in text(answer)
    assert not browser.at_home()
    assert hub.user(name) is None


def test_who_has_no_name_is_refused_with_a_sentence(hub, browser):
    hub.provider.claims("nameless", ["ufmg"])
    hub.provider.people["nameless"]["preferred_username"] = " "
    answer = browser.log_in("nameless")
    assert answer.status_code == 403
    assert "does not tell the hub your name (preferred_username)" in text(answer)


def test_a_group_that_is_taken_off_is_lost(hub, browser):
    hub.provider.claims("bruno", ["ufmg", "ifnmg"])
    browser.log_in("bruno")
    token = hub.ask("POST", "/users/bruno/tokens").json()["token"]
    assert sorted(hub.ask("GET", "/user", token).json()["groups"]) == ["ifnmg", "ufmg"]
    hub.provider.claims("bruno", ["ufmg"])
    assert hub.ask("GET", "/user", token).json()["groups"] == ["ufmg"]
    hub.provider.claims("bruno", ["students"])
    assert hub.ask("GET", "/user", token).status_code == 403  # a notebook's token, too
    assert not browser.at_home()
    assert browser.log_in("bruno").status_code == 403
    hub.provider.claims("bruno", ["ifnmg"])
    browser.log_in("bruno")
    assert hub.user("bruno")["groups"] == ["ifnmg"]


def test_an_administrator_by_a_group_and_no_longer(hub, browser):
    hub.provider.claims("dora", ["hub-admins"])
    browser.log_in("dora")
    assert (hub.user("dora")["admin"], hub.user("dora")["groups"]) == (True, [])
    hub.provider.claims("dora", ["hub-admins", "ufmg"])
    assert browser.at_home()
    assert (hub.user("dora")["admin"], hub.user("dora")["groups"]) == (True, ["ufmg"])
    hub.provider.claims("dora", ["ufmg"])
    assert browser.at_home()
    assert hub.user("dora")["admin"] is False


def test_a_token_that_ran_out_is_renewed_while_the_provider_allows(hub, browser):
    hub.provider.claims("eva", ["ufmg"])
    browser.log_in("eva")
    hub.provider.expire()
    hub.provider.claims("eva", ["ifnmg"])
    assert browser.at_home()
    assert hub.user("eva")["groups"] == ["ifnmg"]
    hub.provider.expire()
    hub.provider.refreshing.clear()  # the provider has ended her session
    assert not browser.at_home()
    assert browser.log_in("eva").status_code == 200


def test_while_the_provider_is_away_nothing_changes_and_nobody_new_gets_in(hub, browser):
    hub.provider.claims("fabio", ["ufmg"])
    browser.log_in("fabio")
    hub.provider.away = True
    assert browser.at_home()
    assert hub.user("fabio")["groups"] == ["ufmg"]
    hub.provider.claims("gil", ["ufmg"])
    other = Browser(hub)
    answer = other.log_in("gil")
    assert answer.status_code == 503
    assert "provider does not answer the hub as it should; try again in a minute" in text(answer)
    assert not other.at_home()
    other.client.close()
    hub.provider.claims("fabio", [])
    hub.provider.away = False
    assert not browser.at_home()


def test_a_name_that_became_another_is_not_let_on(hub, browser):
    hub.provider.claims("hugo", ["ufmg"])
    browser.log_in("hugo")
    hub.provider.people["hugo"]["preferred_username"] = "ana"
    assert not browser.at_home()


def test_the_claims_are_the_master_of_groups(hub, browser):
    hub.provider.claims("ana", ["ufmg"])
    browser.log_in("ana")
    hub.ask("POST", "/groups/ifnmg")
    hub.ask("POST", "/groups/ifnmg/users", json={"users": ["ana"]})  # by an administrator's token
    assert browser.at_home()
    assert hub.user("ana")["groups"] == ["ufmg"]
    # A user that an administrator makes belongs nowhere, and is not let in for that.
    assert hub.ask("POST", "/users/ines").status_code == 201
    hub.provider.claims("ines", [])
    assert browser.log_in("ines").status_code == 403


@pytest.mark.parametrize("query", ["", "?code=x", "?code=x&state=x", "?state=x"])
def test_an_answer_that_nobody_asked_the_provider_for(hub, browser, query):
    assert browser.client.get(f"{hub.url}/oauth_callback{query}").status_code == 400
    assert not browser.at_home()


def test_a_code_of_somebody_else(hub, browser):
    """Caught on the way back, it is of no use in another browser."""
    hub.provider.claims("ana", ["ufmg"])
    hub.provider.here = "ana"
    begun = browser.client.get(f"{hub.url}/oauth_login", follow_redirects=False)
    back = browser.client.get(begun.headers["location"], follow_redirects=False)
    thief = Browser(hub)
    thief.client.get(f"{hub.url}/oauth_login", follow_redirects=False)
    assert thief.client.get(back.headers["location"]).status_code == 400
    assert not thief.at_home()
    thief.client.close()


def test_no_password_logs_in(hub, browser):
    answer = browser.client.post(
        f"{hub.url}/login", data={"username": "ana", "password": "x"}, follow_redirects=False
    )
    assert answer.status_code in (403, 405)
    assert not browser.at_home()


def test_no_secret_is_in_the_log_and_none_in_the_clear_on_the_disk(hub):
    kept = hub.log.read_bytes() + (hub.folder / "jupyterhub.sqlite").read_bytes()
    assert len(hub.provider.seen) > 20
    for secret in [*hub.provider.seen, hub.provider.client_secret, hub.token]:
        assert secret.encode() not in kept
