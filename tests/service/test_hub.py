"""A Hub that knows nobody for a moment, since its database is away: no reason to give up."""

from __future__ import annotations

import asyncio

import pytest

from flautim_lab.service.hub import SCOPE, Hub, Unknown

ANA = {"kind": "user", "name": "ana", "groups": ["ufmg"], "scopes": [SCOPE]}


class Auth:
    """Answers by tokens, as often as told; what is not told is unknown."""

    api_token = "own"

    def __init__(self, **told):
        self.told, self.cache = told, {"stale": None}

    async def user_for_token(self, token, use_cache=True, sync=True):
        answers = self.told.get(token, [None])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def check_scopes(self, _scopes, _user):
        return True


@pytest.fixture
def ask(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "own")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")

    def caller(auth):
        hub = Hub({"ufmg": "flautim-ufmg"})
        hub._auth = auth
        return asyncio.run(hub.caller("token t"))

    return caller


def test_who_is_known_is_asked_about_once(ask):
    assert ask(Auth(t=[ANA])).name == "ana"


def test_an_unknown_token_is_refused_for_good(ask):
    with pytest.raises(Unknown, match="does not know this token") as no:
        ask(Auth(own=[{"kind": "service"}]))
    assert no.value.status == 401


def test_while_the_hub_knows_nobody_one_is_to_try_again(ask):
    auth = Auth()
    with pytest.raises(Unknown, match="try again in a moment") as no:
        ask(auth)
    assert no.value.status == 503
    assert not auth.cache


def test_a_hub_that_is_back_in_between_is_asked_once_more(ask):
    assert ask(Auth(t=[None, ANA], own=[{"kind": "service"}])).name == "ana"
