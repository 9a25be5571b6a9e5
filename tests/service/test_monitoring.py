"""The hub's log and metrics, as ``hub_config/monitoring.py`` sets them, of a Hub that runs."""

from __future__ import annotations

import json
import logging
import sys
import time

import httpx
from traitlets.config import Config

from flautim_lab.service import logs
from hub_config import monitoring


def ask(hub, path, token=""):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.get(hub.url.removesuffix("/api") + path, headers=headers, trust_env=False)


def test_metrics_are_for_who_has_the_token(hub):
    for token in ("", "wrong", hub.token("ana")):
        told = ask(hub, "/metrics", token)
        assert told.status_code == 403
        assert "jupyterhub_running_servers" not in told.text
    told = ask(hub, "/metrics", hub.told["metrics"])
    assert told.status_code == 200
    assert "jupyterhub_running_servers" in told.text
    # It is for that, and nothing else.
    assert ask(hub, "/api/users", hub.told["metrics"]).status_code == 403


def test_every_line_of_the_log_is_json_and_none_holds_a_token(hub):
    token = hub.token("ana")
    ask(hub, f"/api/users/ana?token={token}")
    ask(hub, "/oauth_login?code=a-code-of-oauth")
    end = time.monotonic() + 20
    while "/oauth_login" not in hub.log.read_text() and time.monotonic() < end:
        time.sleep(0.1)  # it is written after the answer
    told = [json.loads(line) for line in hub.log.read_text().splitlines()]
    assert len(told) > 3
    for each in told:
        assert {"time", "level", "logger", "message"} <= set(each)
    assert "JupyterHub" in {each["logger"] for each in told}
    assert any("oauth_login" in each["message"] for each in told)
    for secret in (token, "a-code-of-oauth", *map(str, hub.told.values())):
        if len(secret) > 8:
            assert secret not in hub.log.read_text()


def test_without_json_and_a_token_everything_is_as_it_was():
    c = Config()
    c.JupyterHub.services, c.JupyterHub.load_roles = [], []
    monitoring.configure(c, "text", "")
    assert c.JupyterHub.services == c.JupyterHub.load_roles == []
    assert "logging_config" not in c.JupyterHub


def test_hub_and_service_write_the_same_lines():
    try:
        raise OSError("postgresql://hub:its-password@database/hub?token=a-secret")
    except OSError:
        facts = ("x", logging.ERROR, "f", 1, "GET /x?code=%s", ("a-code",), sys.exc_info())
    record = logging.LogRecord(*facts)
    line = monitoring.JsonLines().format(record)
    assert line == logs.JsonLines().format(record)
    assert json.loads(line)["message"] == "GET /x?code=[secret]"
    assert "hub:[secret]@database/hub?token=[secret]" in json.loads(line)["exception"]
    assert (monitoring.SECRETS, monitoring.STRUCK) == (logs.SECRETS, logs.STRUCK)
