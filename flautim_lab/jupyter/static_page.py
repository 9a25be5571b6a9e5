"""What a display of a run holds: its picture, the page that stays, and the words of a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from IPython.core.getipython import get_ipython
from IPython.display import display, update_display

from flautim_lab.jupyter import html
from flautim_lab.runners.progress import Progress

if TYPE_CHECKING:
    from flautim_lab.plots import LivePlot
    from flautim_lab.runners.run import Run

#: Run id to the cell in which its last page was left.
_left_in: dict[str, str] = {}


@dataclass(frozen=True)
class Picture:
    """A PNG, and the width and height it is shown with, in CSS pixels."""

    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class MimeBundle:
    """What a front end may choose from, by MIME type."""

    data: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)

    def with_picture(self, picture: Picture | None) -> MimeBundle:
        """Return this and the picture, for front ends that show nothing richer."""
        if picture is None:
            return self
        size = {"width": picture.width, "height": picture.height}
        return MimeBundle(
            {**self.data, "image/png": picture.png}, {**self.metadata, "image/png": size}
        )

    def display(self) -> str:
        """Show this in the cell that runs now; return the id under which it can be replaced."""
        display_id = uuid4().hex
        display(  # type: ignore[no-untyped-call]
            self.data, metadata=self.metadata, raw=True, display_id=display_id
        )
        return display_id

    def replace(self, display_id: str) -> None:
        """Show this in place of what was shown under ``display_id``, from any thread."""
        update_display(  # type: ignore[no-untyped-call]
            self.data, metadata=self.metadata, raw=True, display_id=display_id
        )


class Artist:
    """Draws the curves of a run: loss and, beside it, accuracy or the first error measure.

    Safe off the main thread, one thread at a time.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._live: LivePlot | None = None
        #: What was drawn last; None before the first measure.
        self.picture: Picture | None = None

    def draw_live(self, progress: Progress) -> None:
        """Draw what is measured so far, quickly: the picture is soon replaced."""
        # Loads matplotlib and pandas: not before there is something to draw.
        from flautim_lab.plots import LivePlot, metric_names

        frame = self._run.metrics
        metrics = tuple(metric_names(frame)[:2])
        if not metrics:
            return
        if self._live is None or self._live.metrics != metrics:
            self._live = LivePlot(metrics, progress.rounds)
        self.picture = Picture(
            self._live.png(frame, progress.faults, progress.parts), *self._live.size
        )

    def page(self, progress: Progress) -> MimeBundle:
        """Return the page of the run that needs no kernel and no widgets: HTML, PNG and text."""
        from flautim_lab.plots import (
            add_time_bar,
            mark_faults,
            metric_names,
            plot_metrics,
            shown_size,
            to_png,
        )

        frame = self._run.metrics
        metrics = metric_names(frame)
        if metrics:
            figure = plot_metrics({"": frame}, metric=metrics[:2])
            mark_faults(figure, progress.faults)
            add_time_bar(figure, progress.parts)
            self.picture = Picture(to_png(figure), *shown_size(figure))
        # Rounds ascend, so the last value of each stays.
        final: dict[str, dict[str, float]] = {metric: {} for metric in metrics}
        together = frame[frame["client"].isna()]
        for metric, split, value in zip(
            together["metric"], together["split"], together["value"], strict=True
        ):
            final[metric][split] = float(value)
        html_page = html.page(
            self._run.name,
            self._run.id,
            progress,
            final=final,
            png=None if self.picture is None else self.picture.png,
            width=0 if self.picture is None else self.picture.width,
        )
        data = {"text/html": html_page, "text/plain": plain_text(self._run, progress)}
        return MimeBundle(data).with_picture(self.picture)


def plain_text(run: Run, progress: Progress) -> str:
    """Return a run in two lines of text."""
    return f"Run {run.name} ({run.id})\n{html.text_line(progress)}"


def in_kernel() -> bool:
    """Return whether there is a front end to display to, and not a terminal or nothing at all."""
    return getattr(get_ipython(), "kernel", None) is not None


def this_cell() -> str:
    """Return an id of the cell that runs now, new for each execution; "" if it cannot be told."""
    get_parent = getattr(get_ipython(), "get_parent", None)
    parent = get_parent() if get_parent is not None else {}
    return str(parent.get("header", {}).get("msg_id", ""))


def mark_left(run: Run) -> None:
    """Remember that the last page of ``run`` is in the cell that runs now."""
    _left_in[run.id] = this_cell()


def is_left_here(run: Run) -> bool:
    """Return whether this very cell has the last page of ``run`` already.

    ``run.wait()`` at the end of a cell leaves it, and is a run itself, which would be shown again.
    """
    cell = this_cell()
    return bool(cell) and _left_in.get(run.id) == cell
