"""What an institution's data owners decide: requests with their code, runs that read, the audit."""

from __future__ import annotations

import datetime
from html import escape
from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.local.between import DATASET_REMOVED, PROJECT_REMOVED
from flautim_lab.catalog.things import Answer, GrantRequest, RunUse
from flautim_lab.errors import CatalogError, FlautimError
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.confirming import Confirmed, any_code
from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.parts import (
    WIDE,
    CodeBox,
    PagedList,
    Pager,
    button,
    column,
    html,
    moment,
    refill,
    row,
    table,
    text_input,
    title,
)
from flautim_lab.jupyter.panel.reading import code_as_html
from flautim_lab.jupyter.panel.text import Text

PER_PAGE = 10


def answer_in_words(text: Text, request: GrantRequest) -> str:
    """Return what became of a request."""
    words = {
        Answer.WAITING: text("waits for an answer"),
        Answer.THIS_CODE: text("granted for this code"),
        Answer.ANY_CODE: text("granted for any code of the project"),
        Answer.NO: text("refused"),
        Answer.WITHDRAWN: text("withdrawn"),
    }[request.answer]
    by = text("by {user}", user=request.answered_by) if request.answered_by else ""
    reason = f": {request.reason}" if request.reason else ""
    return f"{words} {by}".strip() + reason


def end_of(day: datetime.date | None) -> float | None:
    """Return the last second of a day of this machine's zone, in seconds since 1970."""
    if day is None:
        return None
    return datetime.datetime.combine(day, datetime.time(23, 59, 59)).timestamp()


def check_end(text: Text, day: datetime.date | None) -> None:
    """Refuse a day on which a grant would have ended already."""
    if day is not None and day < datetime.date.today():
        raise CatalogError(
            text("A grant until {day} would be over already; choose a day to come", day=day)
        )


class RequestsTab:
    """Requests, the newest first, and below them what reads the institution's data."""

    def __init__(self, context: Context, institution: str, allowed: Any) -> None:
        text = context.text
        self._context = context
        self._institution = institution
        self._list = PagedList(context, self._show)
        self._waiting = widgets.Checkbox(
            value=True,
            description=text("Only those that wait"),
            indent=False,
            layout={"width": "auto"},
        )
        self._code = CodeBox(context, self._as_code)
        again = button(context, text("Look again"), self._look, icon="refresh")
        self._audit = _AuditList(context, institution)
        self._reads: _Reads | None = None
        parts: list[widgets.Widget] = []
        if "grant datasets" in allowed:
            self._reads = _Reads(context, institution)
            parts += [
                title(text("Requests for data")),
                row(self._waiting, again),
                self._list.widget,
                self._code.widget,
                title(text("Runs that read the data")),
                self._reads.widget,
            ]
        parts += [title(text("Who did what")), self._audit.widget]
        self.widget = column(*parts)
        if "grant datasets" in allowed:
            self._show(1)
            self._waiting.observe(lambda _: context.attempt(lambda: self._show(1)), "value")

    def _look(self) -> None:
        """Show all of it anew: others ask, and run, meanwhile."""
        self._show(1)
        if self._reads is not None:
            self._reads.show(1)
        self._audit.show(1)

    def _show(self, page: int) -> None:
        found = self._context.catalog.grant_requests(
            institution=self._institution,
            waiting=self._waiting.value,
            page=page,
            per_page=PER_PAGE,
        )
        items = [_Request(self._context, one, self._look).widget for one in found.items]
        self._list.set(items, found, self._context.text("Nobody asks for data now"))
        self._code.refresh()

    def _as_code(self) -> str:
        asked = code.call("catalog.grant_requests", institution=self._institution, waiting=True)
        return code.cell(
            f"first = {asked}.items[0]",
            "request = catalog.grant_request(first.id)",
            "print(request.code)  # where the model is, the settings that count, and the source",
            "",
            "# Yes for this code, yes for 'any code' of the project, or 'no':",
            "catalog.answer_request(first.id, 'this code')",
        )


class _Request:
    """One request; its code is read from the catalog once somebody wants to see it."""

    def __init__(self, context: Context, request: GrantRequest, answered: Any) -> None:
        text = context.text
        self._context = context
        self._request = request
        self._answered = answered
        facts = " · ".join(
            filter(
                None,
                [
                    text("asked by {user}", user=request.asked_by),
                    moment(text, request.asked),
                    request.experiment or text("an experiment of a notebook"),
                    answer_in_words(text, request),
                ],
            )
        )
        words = html(
            f"<div class='lab-name'>{escape(request.dataset)} → {escape(request.project)}</div>"
            f"<div>{escape(request.note)}</div><div class='lab-faint'>{escape(facts)}</div>"
        )
        self._place = widgets.VBox(layout={"width": "100%"})
        tip = text("Read the code of {project}", project=request.project)
        read = button(context, text("Read the code"), self._read, icon="file-code-o", tip=tip)
        head = row(words, read)
        self.widget = column(head, self._place)
        self.widget.add_class("lab-item")

    def _read(self) -> None:
        if self._place.children:  # pressed again: away with it
            self._close()
            return
        context, text = self._context, self._context.text
        whole = context.catalog.grant_request(self._request.id)
        parts: list[widgets.Widget] = [html(code_as_html(text, whole))]
        if whole.answer is Answer.WAITING:
            self._until = widgets.DatePicker(description=text("until"), style=WIDE)
            self._reason = text_input(text("Reason"), hint=text("of a refusal"))
            self._wrong = html("", "lab-wrong")
            self._wrong.layout.display = "none"
            project = whole.project
            wide = Confirmed(
                context,
                text("Grant any code of {project}", project=project),
                lambda: any_code(text, whole.dataset, project),
                text("Yes, grant any code"),
                lambda: self._answer(Answer.ANY_CODE),
                icon="check",
            )
            parts += [
                row(
                    self._until,
                    button(
                        context,
                        text("Grant this code"),
                        lambda: self._answer(Answer.THIS_CODE),
                        icon="check",
                        kind="primary",
                    ),
                    wide.button,
                ),
                wide.widget,
                row(
                    self._reason,
                    button(context, text("Refuse"), lambda: self._answer(Answer.NO), icon="times"),
                ),
                self._wrong,
            ]
        self._place.children = tuple(parts)

    def _close(self) -> None:
        refill(self._place, [])

    def _answer(self, answer: Answer) -> None:
        """Answer it; what is wrong is said beside the buttons, far below the panel's head."""
        refused, text = answer is Answer.NO, self._context.text
        try:
            if refused and not self._reason.value.strip():
                raise CatalogError(text("Give a reason; who asked reads it"))
            if not refused:
                check_end(text, self._until.value)
            told = self._context.catalog.answer_request(
                self._request.id,
                answer,
                until=None if refused else end_of(self._until.value),
                reason=self._reason.value if refused else "",
            )
        except FlautimError as error:
            self._wrong.value = escape(text.sentence(error))
            self._wrong.layout.display = ""
            return
        self._context.say(f"{told.dataset} → {told.project}: {answer_in_words(text, told)}", "done")
        self._answered()


class _Reads:
    """The runs that read an institution's data; their owner may end them."""

    def __init__(self, context: Context, institution: str) -> None:
        self._context = context
        self._institution = institution
        self._list = PagedList(context, self.show)
        box = CodeBox(context, lambda: code.cell(code.call("catalog.uses", institution)))
        self.widget = column(self._list.widget, box.widget)
        self.show(1)

    def show(self, page: int) -> None:
        """Show a page, as it is now."""
        found = self._context.catalog.uses(self._institution, page=page, per_page=PER_PAGE)
        none = self._context.text("No run has read data from here yet")
        self._list.set([self._item(one) for one in found.items], found, none)

    def _item(self, use: RunUse) -> widgets.Widget:
        text, context = self._context.text, self._context
        state = text("goes on")
        if use.ended is not None:
            state = text("ended {when}", when=moment(text, use.ended))
        elif use.stop_asked is not None:
            state = text("its end was asked for by {user}", user=use.stop_asked_by)
        facts = " · ".join(
            [
                text("started by {user}", user=use.started_by),
                moment(text, use.started),
                use.project,
                text("code {hash}", hash=use.code[:12]) if use.code else "",
                state,
            ]
        )
        words = html(
            f"<div class='lab-name'>{escape(use.dataset)}</div>"
            f"<div class='lab-faint'>{escape(facts)}</div>"
            f"<div class='lab-faint'>{escape(use.run_id)}</div>"
        )
        parts: list[widgets.Widget] = [words]
        if use.ended is None and use.stop_asked is None:
            tip = text("Stop run {name}", name=use.run_id)
            parts.append(
                button(context, text("Stop"), lambda: self._stop(use.run_id), icon="stop", tip=tip)
            )
        made = row(*parts)
        made.add_class("lab-item")
        return made

    def _stop(self, run_id: str) -> None:
        self._context.catalog.stop_use(run_id)
        self._context.say(self._context.text("The run is asked to end"), "done")
        self.show(self._list.page)


class _AuditList:
    """Who did what, the newest first."""

    def __init__(self, context: Context, institution: str) -> None:
        self._context = context
        self._institution = institution
        text = context.text
        self._words = {
            "asked for": text("asked for"),
            "granted": text("granted"),
            "ended a grant": text("ended a grant"),
            "refused": text("refused a request for"),
            "ran": text("ran"),
            "stopped": text("asked for the end of"),
            "registered": text("registered"),
            "withdrew": text("withdrew"),
            "published": text("published"),
            "no longer published": text("no longer published"),
        }
        self._details = {
            "code": text("code"),
            "dataset": text("dataset"),
            "project": text("project"),
            "reason": text("reason"),
            "request": text("request"),
            "rows": text("rows"),
            "until": text("until"),
        }
        self._reasons = {  # of ours, and not a refusal's
            PROJECT_REMOVED: text("the project was removed"),
            DATASET_REMOVED: text("the dataset was removed"),
        }
        self._list = html("")
        self._pager = Pager(context, self.show)
        box = CodeBox(context, lambda: code.cell(code.call("catalog.audit", institution)))
        self.widget = column(self._list, self._pager.widget, box.widget)
        self.show(1)

    def show(self, page: int) -> None:
        """Show a page, as it is now."""
        text = self._context.text
        found = self._context.catalog.audit(self._institution, page=page, per_page=PER_PAGE)
        rows = [
            [
                moment(text, each.time),
                each.user,
                self._words.get(each.action, each.action),
                each.about,
                " · ".join(
                    f"{self._details.get(name, name)} {self._told(name, value)}"
                    for name, value in each.details.items()
                    if value not in ("", None)
                ),
            ]
            for each in found.items
        ]
        heads = [text("When"), text("User"), text("Did"), text("What"), text("More")]
        none = f"<span class='lab-faint'>{escape(text('Nothing yet'))}</span>"
        self._list.value = table(heads, rows) if rows else none
        self._pager.set(found.page, found.pages, found.total)

    def _told(self, name: str, value: Any) -> str:
        """Return a detail of an entry as it is read."""
        if name == "until":
            return moment(self._context.text, value)
        if name == "code":
            return self._context.text("any") if value == "any" else str(value)[:12]
        if name == "reason":
            return self._reasons.get(value, str(value))
        return str(value)
