"""Progress of a run in one line of text, while ``run.wait()`` waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flautim_lab.jupyter import html
from flautim_lab.jupyter.static_page import Artist, MimeBundle, mark_left
from flautim_lab.runners.progress import Progress

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

#: Runs that were waited for in this kernel: their page is shown once.
_waited_for: set[str] = set()


class TextProgress:
    """An observer for ``run.wait()``: a line that is updated in place, then the static page.

    For runs of which no view is shown. All is sent from the waiting thread, so that it belongs to
    the waiting cell under papermill too, and needs no widgets.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._display_id = ""
        self._line = ""
        self._silent = run.id in _waited_for and run.status.ended
        _waited_for.add(run.id)

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``, if it reads differently from what is shown."""
        if self._silent:
            return
        line = html.text_line(progress)
        if progress.status.ended:
            self._show(Artist(self._run).page(progress))
            mark_left(self._run)
            self._silent = True
        elif line != self._line:
            self._line = line
            self._show(MimeBundle({"text/plain": line}))

    def _show(self, bundle: MimeBundle) -> None:
        if self._display_id:
            bundle.replace(self._display_id)
        else:
            self._display_id = bundle.display()
