"""What who runs the hub sees of it: its log, and its metrics at ``/hub/metrics``."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

SERVICE = "metrics"
TEXT, JSON = "text", "json"

# The same as in flautim_lab/service/logs.py, which is not in the hub's image; a test compares them.
STRUCK = "[secret]"
SECRETS = (
    re.compile(r"(://[^\s/:@]*:)[^\s/@]+(?=@)"),
    re.compile(
        r"([?&][^\s=&]*(?:token|auth|key|code|state|secret|password|_xsrf)[^\s=&]*=)[^\s&#]+"
    ),
    re.compile(r"(?i)(\b(?:token|bearer) )[\w.~+/=-]{16,}"),
)


class JsonLines(JsonFormatter):
    """An entry as a line of JSON, with these fields and no others.

    JupyterHub strikes secrets out of the addresses that it logs; Tornado, whose entries are in the
    same log, does not.
    """

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill in the fields."""
        moment = datetime.fromtimestamp(record.created, tz=UTC)
        log_data["time"] = moment.isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = _struck_out(record.getMessage())
        if "exc_info" in message_dict:
            log_data["exception"] = _struck_out(message_dict["exc_info"])


def configure(c: Any, logs: str, metrics_token: str) -> None:
    """Set how the hub logs, and who may read its metrics.

    Parameters
    ----------
    c : Config
        JupyterHub's.
    logs : str
        ``text`` or ``json``.
    metrics_token : str
        Of Prometheus; "" for nobody.
    """
    if logs == JSON:
        others = {
            "class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr",
        }  # fmt: skip
        c.JupyterHub.logging_config = {
            "formatters": {"lines": {"()": JsonLines}},
            "handlers": {"console": {"formatter": "lines"}, "others": others},
            # What is no logger of JupyterHub's own: asyncio, SQLAlchemy, the cluster's client.
            "root": {"level": "WARNING", "handlers": ["others"]},
        }
    if metrics_token:
        c.JupyterHub.services.append(
            {"name": SERVICE, "api_token": metrics_token, "display": False}
        )
        c.JupyterHub.load_roles.append(
            {"name": SERVICE, "services": [SERVICE], "scopes": ["read:metrics"]}
        )


def _struck_out(text: str) -> str:
    for pattern in SECRETS:
        text = pattern.sub(rf"\1{STRUCK}", text)
    return text
