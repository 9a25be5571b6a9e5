"""What a notebook's server counts as being used, beside what somebody does in a browser.

Jupyter's own time of the last activity is that of a kernel's last message, so that a cell which
computes for hours in silence looks idle, and so does a run that goes on by itself. A hub that ends
idle servers would end both. This is an extension of Jupyter Server, loaded with
``--ServerApp.jpserver_extensions=flautim_lab.jupyter.activity=True``: every minute in which a
kernel is busy, or a run of this home is under way, counts.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from tornado.ioloop import PeriodicCallback

from flautim_lab.errors import FlautimError
from flautim_lab.records.event import RunStatus
from flautim_lab.records.store import Records

LOOK_SECONDS = 60.0
KEY = "flautim_lab"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Begin to look; Jupyter Server calls this."""

    async def look() -> None:
        reason = "a kernel is busy" if _computes(server) else await asyncio.to_thread(_runs)
        if reason:
            server.log.debug("In use: %s", reason)
            server.web_app.settings["last_activity_times"][KEY] = datetime.now(UTC)

    PeriodicCallback(look, LOOK_SECONDS * 1000).start()


def _computes(server: Any) -> bool:
    """Return whether a cell of some notebook computes."""
    kernels = server.kernel_manager
    return any(
        getattr(kernels.get_kernel(each), "execution_state", "") == "busy"
        for each in kernels.list_kernel_ids()
    )


def _runs() -> str:
    """Return which run of this home is under way; one whose processes are gone is not."""
    try:
        records = Records.default()
        found = [*records.runs(status=RunStatus.RUNNING), *records.runs(status=RunStatus.WAITING)]
    except FlautimError:  # no records can be read: nothing is known to run
        return ""
    return f"run {found[0].id} is under way" if found else ""
