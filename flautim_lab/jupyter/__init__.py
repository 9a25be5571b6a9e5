"""Flautim Lab in a notebook: a run that is shown is a live view, an error of ours is a sentence.

Importing this loads neither IPython nor widgets nor matplotlib; a kernel that has registered it
loads them when it is idle (``warm_up.py``).
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from flautim_lab.errors import FlautimError
from flautim_lab.runners.progress import Observer, Progress, observer_factories

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

RED, PLAIN = "\x1b[0;31m", "\x1b[0m"


def register(ipython: Any) -> None:
    """Teach ``ipython`` how to show a run and our errors; a second time changes nothing.

    Parameters
    ----------
    ipython : IPython.core.interactiveshell.InteractiveShell
        Of a kernel, or of a terminal, where a run is shown as text.
    """
    formatter = ipython.display_formatter.ipython_display_formatter
    formatter.for_type_by_name("flautim_lab.runners.run", "Run", _show)
    if FlautimError not in ipython.custom_exceptions:
        _handle_errors(ipython)
    if getattr(ipython, "kernel", None) is not None and _observe not in observer_factories:
        from flautim_lab.jupyter.warm_up import warm_up_after_cell

        observer_factories.append(_observe)
        warm_up_after_cell(ipython)


def _handle_errors(ipython: Any) -> None:
    """Show errors of ours as sentences; those that somebody else handles stay with them."""
    theirs, handler = ipython.custom_exceptions, ipython.CustomTB

    def handle(shell: Any, kind: type[BaseException], *details: Any, **more: Any) -> list[str]:
        if issubclass(kind, FlautimError):
            return _show_error(shell, kind, *details, **more)
        return list(handler(kind, *details, **more))

    ipython.set_custom_exc((*theirs, FlautimError), handle)


def _show(run: Run) -> None:
    from flautim_lab.jupyter.live_view import show

    show(run)


def _observe(run: Run) -> Observer:
    """Return what ``run.wait()`` tells how the run goes: its view, else a line of text."""
    from flautim_lab.jupyter.live_view import view_of
    from flautim_lab.jupyter.text_progress import TextProgress

    view = view_of(run)
    observer: Observer = TextProgress(run) if view is None else view.finish

    def tell(progress: Progress) -> None:
        try:
            observer(progress)
        except Exception:
            # What is shown of a run must not end the waiting for it.
            import logging

            logging.getLogger(__name__).exception("the progress of run %s is not shown", run.id)

    return tell


def _show_error(
    ipython: Any,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType,
    tb_offset: int | None = None,
) -> list[str]:
    """Show an error of ours as one sentence; ``%tb`` shows where it came from.

    IPython's contract for ``set_custom_exc``: show it, and return what was shown. It is sent as
    every error of a cell is, so that papermill and nbclient see the cell fail with its name.
    """
    import sys

    if getattr(error, "was_shown", False):
        return list(ipython._last_traceback or [])
    # Where %tb and %debug look.
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
    lines = [f"{RED}{kind.__name__}{PLAIN}: {error}"]
    ipython._showtraceback(kind, error, lines)
    return lines
