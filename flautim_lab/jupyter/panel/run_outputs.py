"""The curves of a run beside those of others, and its model, as pictures and as files."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from flautim_lab.errors import RecordsError
from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.downloads import link, links, model_links
from flautim_lab.jupyter.panel.parts import WIDE, column, html, row, table, title
from flautim_lab.jupyter.style import number
from flautim_lab.records.artifacts import metrics_csv
from flautim_lab.runners.launch import attach
from flautim_lab.runners.progress import Progress
from flautim_lab.runners.run import Run

MOST_COMPARED = 50  # runs of a project that can be chosen
MOST_PICTURES = 2


class OutputsTab:
    """Loss and metrics over the rounds; other runs of the project on the same plot; downloads."""

    def __init__(self, context: Context, run: Run, project: str) -> None:
        text = context.text
        self._context = context
        self._run = run
        self._metric = widgets.Dropdown(
            options=[(text("all"), "")],
            description=text("Metric"),
            style=WIDE,
            layout={"width": "260px"},
        )
        others = self._others(project)
        self._compare = widgets.SelectMultiple(
            options=others,
            description=text("Compare with"),
            style=WIDE,
            rows=min(max(len(others), 1), 4),
            layout={"width": "100%", "max_width": "640px", "display": "" if others else "none"},
        )
        # Loss, and beside it accuracy or the first error measure.
        self._pictures = [
            widgets.Image(format="png", layout={"max_width": "100%", "height": "auto"})
            for _ in range(MOST_PICTURES)
        ]
        self._last = html("")
        self._links = html("")
        self.widget = column(
            row(self._metric),
            self._compare,
            row(*self._pictures),
            self._links,
            title(text("Last values")),
            self._last,
        )
        self._drawn: tuple[Any, ...] | None = None
        self._ended = False
        for each in (self._metric, self._compare):
            each.observe(lambda _: context.attempt(self._draw), "value")

    def _others(self, project: str) -> list[tuple[str, str]]:
        """Return the project's other runs that this machine's records know."""
        if not project:
            return []
        found = []
        for one in self._context.catalog.runs(project, per_page=MOST_COMPARED).items:
            if one.run_id == self._run.id:
                continue
            try:
                record = self._context.records.run(one.run_id)
            except RecordsError:
                continue
            found.append((f"{record.name} · {one.run_id}", one.run_id))
        return found

    def look(self, progress: Progress) -> None:
        """Draw what is new."""
        self._ended = progress.status.ended
        state = (progress.round, progress.status, self._metric.value, self._compare.value)
        if state != self._drawn:
            self._draw()
            self._drawn = state

    def _draw(self) -> None:
        from flautim_lab.plots import metric_names, shown_size, to_png
        from flautim_lab.plots.files import picture_bytes

        frame = self._run.metrics
        names = metric_names(frame)
        for picture in self._pictures:
            picture.layout.display = "none"
        text = self._context.text
        if not names:
            self._last.value = escape(text("Nothing is measured yet"))
            return
        known = ((text("all"), ""), *((name, name) for name in names))
        if known != tuple(self._metric.options):
            chosen = self._metric.value
            self._metric.options = known
            self._metric.value = chosen if chosen in names else ""
        others = [attach(run_id) for run_id in self._compare.value]
        shown = [self._metric.value] if self._metric.value else names[:MOST_PICTURES]
        plots = []
        for metric, picture in zip(shown, self._pictures, strict=False):
            figure = self._run.plot(metric, compare=others)
            picture.value = png = to_png(figure)
            # Two beside each other where there is room for both.
            full = f"{shown_size(figure)[0]}px"
            picture.layout.width = full if len(shown) == 1 else "48%"
            picture.layout.min_width = "min(380px, 100%)"
            picture.layout.display = ""
            name = f"{self._run.id}-{metric}"
            plots.append(link(f"{name}.png", png, text("{metric} as PNG", metric=metric)))
            if self._ended:
                pdf = picture_bytes(figure, ".pdf")
                plots.append(link(f"{name}.pdf", pdf, text("{metric} as PDF", metric=metric)))
        self._last.value = _last_values(self._context, frame)
        if self._ended:
            csv = metrics_csv(self._run.folder, frame).read_bytes()
        else:
            csv = frame.to_csv(index=False).encode()
        metrics = link(f"{self._run.id}-metrics.csv", csv, text("Metrics as CSV"))
        self._links.value = links(metrics, *plots)


def _last_values(context: Context, frame: Any) -> str:
    """Return the last value of each metric, validation beside training."""
    text = context.text
    together = frame[frame["client"].isna()]
    last: dict[str, dict[str, float]] = {}
    for metric, split, value in zip(
        together["metric"], together["split"], together["value"], strict=True
    ):
        last.setdefault(metric, {})[split] = float(value)  # rounds ascend
    rows = [
        [
            metric,
            *(number(of[split]) if split in of else "" for split in ("train", "validation")),
        ]
        for metric, of in last.items()
    ]
    return table([text("Metric"), text("Training"), text("Validation")], rows)


class ModelsTab:
    """The checkpoints of a run and its final model, with the Python that loads it."""

    def __init__(self, context: Context, run: Run) -> None:
        text = context.text
        self._context = context
        self._run = run
        self._links = html("")
        self._points = html("")
        self._code = html("")
        self.widget = column(
            title(text("Final model")),
            self._links,
            self._code,
            title(text("Checkpoints")),
            self._points,
        )
        self._shown: object = None

    def look(self, progress: Progress) -> None:
        """Show what there is; a model does not change once the run has ended."""
        state = (progress.status, progress.round)
        if state == self._shown:
            return
        self._shown = state
        text, run = self._context.text, self._run
        self._links.value = model_links(text, run)
        lines = (
            f"import torch\nweights = torch.load({run.id + '.pt'!r})\n\n"
            "# or, from safetensors:\nfrom safetensors.torch import load_file\n"
            f"weights = load_file({run.id + '.safetensors'!r})\n\n"
            "model = Net()  # your class, made as in the experiment\n"
            "model.load_state_dict(weights)\n\n"
            "# in this notebook, ready made:\n"
            f"import flautim_lab as lab\nmodel = lab.attach({run.id!r}).model()"
        )
        self._code.value = f"<pre class='lab-code'>{escape(lines)}</pre>"
        found = sorted(run.folder.rglob("checkpoint-*.safetensors"))
        rows = [
            [text("round {n}", n=int(path.stem.split("-")[-1])), f"{path.stat().st_size:,} B"]
            for path in found
        ]
        none = text("A run in one process keeps none; one on processes or the cluster does")
        self._points.value = table([], rows) if rows else escape(none)
