"""An identity provider of the tests' own: OpenID Connect's code flow, with PKCE, on loopback."""

from __future__ import annotations

import base64
import hashlib
import secrets
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse


class Provider:
    """Knows people by their claims; whoever is ``here`` is who opens its page.

    Attributes
    ----------
    people : dict of str to dict
        Claims, by name.
    away : bool
        Whether it answers nothing but 503.
    """

    def __init__(self, port, callback):
        self.url, self.callback = f"http://127.0.0.1:{port}", callback
        self.client_id, self.client_secret = "flautim-hub", secrets.token_hex(16)
        self.people, self.here, self.away = {}, "", False
        self.codes, self.tokens, self.refreshing, self.seen = {}, {}, {}, []
        self.app = FastAPI()
        self.app.get("/authorize")(self.authorize)
        self.app.post("/token")(self.token)
        self.app.get("/userinfo")(self.userinfo)

    def claims(self, name, groups, **more):
        """Let there be somebody."""
        self.people[name] = {"sub": name, "preferred_username": name, "groups": groups} | more

    def expire(self):
        """Let no access token be good any more."""
        self.tokens.clear()

    async def authorize(self, request: Request):
        asked = request.query_params
        assert asked["client_id"] == self.client_id
        assert asked["redirect_uri"] == self.callback
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = self._new()
        self.codes[code] = (self.here, asked["code_challenge"])
        back = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{self.callback}?{back}", 302)

    async def token(self, request: Request):
        if self.away:
            return JSONResponse({}, 503)
        asked = {key: value for key, (value,) in parse_qs((await request.body()).decode()).items()}
        own = (asked.get("client_id"), asked.get("client_secret"))
        if own != (self.client_id, self.client_secret):
            return JSONResponse({"error": "invalid_client"}, 401)
        name = self._redeem(asked)
        if name is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        access, refresh = self._new(), self._new()
        self.tokens[access] = self.refreshing[refresh] = name
        return {"access_token": access, "refresh_token": refresh, "token_type": "Bearer"}

    def _redeem(self, asked):
        if asked["grant_type"] == "refresh_token":
            return self.refreshing.pop(asked["refresh_token"], None)
        name, challenge = self.codes.pop(asked["code"], (None, ""))
        digest = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        right = base64.urlsafe_b64encode(digest).decode().rstrip("=") == challenge
        return name if right and asked["redirect_uri"] == self.callback else None

    async def userinfo(self, request: Request):
        if self.away:
            return JSONResponse({}, 503)
        name = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if name is None:
            return JSONResponse({"error": "invalid_token"}, 401)
        return self.people[name]

    def _new(self):
        made = secrets.token_urlsafe(24)
        self.seen.append(made)
        return made
