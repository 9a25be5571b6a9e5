"""Load what shows a run while the kernel is idle, so that the first run does not pay for it.

Widgets, matplotlib, its fonts and a first picture take half a second of processor. Without this
they would take it from the first run that is shown, in the middle of its training.
"""

from __future__ import annotations

import threading
from typing import Any

_started = threading.Event()


def warm_up_after_cell(ipython: Any) -> None:
    """Begin once the cell that runs now has ended; a second call changes nothing.

    Parameters
    ----------
    ipython : IPython.core.interactiveshell.InteractiveShell
        Of a kernel.
    """

    def begin(*_: Any) -> None:
        ipython.events.unregister("post_run_cell", begin)
        if not _started.is_set():
            _started.set()
            threading.Thread(target=_load, name="flautim-warm-up", daemon=True).start()

    ipython.events.register("post_run_cell", begin)


def _load() -> None:
    """Load, and draw one picture that nobody sees."""
    import contextlib

    # Whatever fails here fails again, and is shown, where it is needed.
    with contextlib.suppress(Exception):
        import flautim_lab.jupyter.live_view  # noqa: F401
        from flautim_lab.plots import warm_up

        warm_up()
