"""The service's log: text for a person, or a line of JSON for each entry (``FLAUTIM_LAB_LOGS``).

::

    {"time": "2026-11-30T04:20:00.123+00:00", "level": "INFO", "logger": "uvicorn.error",
     "message": ..., "exception": ...}

What could let somebody in is struck out, wherever it stands: a log is read by more people than a
token is meant for.
"""

from __future__ import annotations

import logging
import logging.config
import os
import re
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from flautim_lab.errors import UsageError
from flautim_lab.names import choose

VARIABLE = "FLAUTIM_LAB_LOGS"
TEXT, JSON = "text", "json"

STRUCK = "[secret]"
SECRETS = (
    # Of a URL: what follows the user's name, and the parameters that JupyterHub strikes out too.
    re.compile(r"(://[^\s/:@]*:)[^\s/@]+(?=@)"),
    re.compile(
        r"([?&][^\s=&]*(?:token|auth|key|code|state|secret|password|_xsrf)[^\s=&]*=)[^\s&#]+"
    ),
    re.compile(r"(?i)(\b(?:token|bearer) )[\w.~+/=-]{16,}"),
)


def struck_out(text: str) -> str:
    """Return a text without passwords and tokens."""
    for pattern in SECRETS:
        text = pattern.sub(rf"\1{STRUCK}", text)
    return text


class JsonLines(JsonFormatter):
    """An entry as a line of JSON, with these fields and no others."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill in the fields."""
        moment = datetime.fromtimestamp(record.created, tz=UTC)
        log_data["time"] = moment.isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = struck_out(record.getMessage())
        if "exc_info" in message_dict:
            log_data["exception"] = struck_out(message_dict["exc_info"])


class TextLines(logging.Formatter):
    """An entry for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry."""
        return struck_out(super().format(record))


def configure() -> None:
    """Let all loggers of this process, uvicorn's too, write as ``FLAUTIM_LAB_LOGS`` says.

    Raises
    ------
    UsageError
        For anything but ``text`` and ``json``.
    """
    kind = choose(os.environ.get(VARIABLE) or TEXT, [TEXT, JSON], VARIABLE, UsageError)
    form: dict[str, Any] = {"()": JsonLines}
    if kind == TEXT:
        form = {"()": TextLines, "format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"lines": form},
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": "lines",
                    "stream": "ext://sys.stderr",
                }
            },
            "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {name: {"level": "INFO"} for name in ("flautim_lab", "uvicorn")},
        }
    )
    logging.captureWarnings(True)
    sys.excepthook = _log_error
    threading.excepthook = _log_error_of_thread


def _log_error(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("flautim_lab").critical(
            "the service ended", exc_info=(kind, error, traceback)
        )


def _log_error_of_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and told.exc_type is not SystemExit:
        name = told.thread.name if told.thread else "?"
        logging.getLogger("flautim_lab").error(
            "the thread %s ended",
            name,
            exc_info=(told.exc_type, told.exc_value, told.exc_traceback),
        )
