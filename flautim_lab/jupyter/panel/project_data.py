"""The data of a project: what it may use, what it asks for, and what others offer."""

from __future__ import annotations

from html import escape

import ipywidgets as widgets

from flautim_lab.catalog.asking import ask_for_data
from flautim_lab.catalog.things import Answer, ExperimentVersion, GrantRequest
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.datasets import dataset_item
from flautim_lab.jupyter.panel.parts import (
    WIDE,
    CodeBox,
    PagedList,
    button,
    column,
    html,
    moment,
    row,
    text_input,
    title,
)
from flautim_lab.jupyter.panel.requests import answer_in_words

PER_PAGE = 10


class ProjectData:
    """Datasets that a project may use, its requests, and the published ones of others."""

    def __init__(self, context: Context, project: str, *, work: bool) -> None:
        text = context.text
        found = context.catalog.usable(project)
        none = html(escape(text("No dataset may be used here yet")), "lab-faint")
        box = CodeBox(context, lambda: code.cell(code.call("catalog.usable", project)))
        items = [dataset_item(text, dataset) for dataset in found] or [none]
        parts: list[widgets.Widget] = [*items, box.widget]
        if work:
            parts += [title(text("Ask for data")), _Asking(context, project).widget]
        parts += [
            title(text("Datasets of other institutions")),
            _Offered(context, project).widget,
        ]
        self.widget = column(*parts)


class _Asking:
    """Asks for the data of an experiment, and shows what became of it."""

    def __init__(self, context: Context, project: str) -> None:
        text = context.text
        self._context = context
        self._project = project
        home = project.partition("/")[0]
        found = [
            one
            for one in context.catalog.experiments(project, per_page=100).items
            if any(each.partition("/")[0] != home for each in one.datasets)
        ]
        self._experiment = widgets.Dropdown(
            options=[(_named(one), one.ref) for one in found],
            description=text("Experiment"),
            style=WIDE,
            layout={"width": "auto", "max_width": "100%"},
        )
        self._note = text_input(text("Note"), hint=text("what it is for"), area=True)
        ask = button(context, text("Ask for its data"), self._ask, icon="envelope", kind="primary")
        again = button(context, text("Look again"), self._look, icon="refresh")
        self._list = PagedList(context, self._show)
        self._code = CodeBox(context, self._as_code)
        none = text(
            "Save an experiment on a dataset of another institution first: its owners are shown "
            "the code"
        )
        form = (
            [row(self._experiment), self._note, row(ask, again), self._code.widget]
            if found
            else [html(escape(none), "lab-faint")]
        )
        self.widget = column(*form, self._list.widget)
        self._show(1)

    def _look(self) -> None:
        self._show(self._list.page)

    def _ask(self) -> None:
        context = self._context
        asked = ask_for_data(self._experiment.value, note=self._note.value, catalog=context.catalog)
        named = ", ".join(each.dataset for each in asked)
        context.say(context.text("The owners of {names} were asked", names=named), "done")
        self._note.value = ""
        self._show(1)

    def _show(self, page: int) -> None:
        found = self._context.catalog.grant_requests(
            project=self._project, page=page, per_page=PER_PAGE
        )
        self._list.set([self._item(one) for one in found.items], found)
        self._code.refresh()

    def _item(self, request: GrantRequest) -> widgets.Widget:
        text, context = self._context.text, self._context
        facts = " · ".join(
            filter(None, [request.experiment, request.asked_by, moment(text, request.asked)])
        )
        words = html(
            f"<div class='lab-name'>{escape(request.dataset)}</div>"
            f"<div>{escape(answer_in_words(text, request))}</div>"
            f"<div class='lab-faint'>{escape(facts)}</div>"
        )
        parts: list[widgets.Widget] = [words]
        if request.answer is Answer.WAITING:
            tip = text("Withdraw the request for {name}", name=request.dataset)
            away = lambda: self._withdraw(request.id)  # noqa: E731
            parts.append(button(context, text("Withdraw"), away, icon="undo", tip=tip))
        made = row(*parts)
        made.add_class("lab-item")
        return made

    def _withdraw(self, number: int) -> None:
        self._context.catalog.withdraw_request(number)
        self._show(self._list.page)

    def _as_code(self) -> str:
        given = code.written(note=self._note.value)
        return code.cell(
            code.call("lab.ask_for_data", self._experiment.value, **given),
            f"page = {code.call('catalog.grant_requests', project=self._project)}",
            "[(each.dataset, each.answer, each.reason) for each in page.items]",
        )


def _named(experiment: ExperimentVersion) -> str:
    return f"{experiment.name} ({', '.join(experiment.datasets)})"


class _Offered:
    """What other institutions published: schema and size, and never a row."""

    def __init__(self, context: Context, project: str) -> None:
        text = context.text
        self._context = context
        self._home = project.partition("/")[0]
        self._search = text_input(text("Search"), hint=text("name of a dataset or institution"))
        self._list = PagedList(context, self._show)
        self._code = CodeBox(context, self._as_code)
        self.widget = column(row(self._search), self._list.widget, self._code.widget)
        self._show(1)
        self._search.observe(lambda _: context.attempt(lambda: self._show(1)), "value")

    def _show(self, page: int) -> None:
        text = self._context.text
        found = self._context.catalog.published(self._search.value, page=page, per_page=PER_PAGE)
        items = [dataset_item(text, one) for one in found.items if one.institution != self._home]
        self._list.set(items, found, text("Nobody has published one"))
        self._code.refresh()

    def _as_code(self) -> str:
        words = [self._search.value] if self._search.value else []
        return code.cell(code.call("catalog.published", *words))
