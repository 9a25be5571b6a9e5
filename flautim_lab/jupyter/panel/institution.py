"""An institution: its projects, its datasets, its users, and what is known of it."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.cnpj import check_cnpj, formatted
from flautim_lab.catalog.local.institutions import MOST_LOGO_BYTES
from flautim_lab.catalog.things import Project
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context, Place
from flautim_lab.jupyter.panel.datasets import DatasetsTab
from flautim_lab.jupyter.panel.parts import (
    CodeBox,
    Field,
    PagedList,
    Tabs,
    button,
    column,
    html,
    moment,
    picture,
    row,
    text_input,
    title,
)
from flautim_lab.jupyter.panel.people import PeopleTab
from flautim_lab.jupyter.panel.requests import RequestsTab
from flautim_lab.jupyter.panel.uploads import uploaded, uploader

PER_PAGE = 10
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class InstitutionScreen:
    """An institution, in tabs."""

    def __init__(self, context: Context, place: Place) -> None:
        text = context.text
        self._context = context
        institution = context.catalog.institution(place.ref)
        number = f"CNPJ {formatted(institution.cnpj)}" if institution.cnpj else ""
        state = "" if institution.active else text("inactive")
        more = " · ".join(filter(None, [number, state]))
        head = html(
            f"{picture(institution.logo, institution.name)}<div class='lab-big'>"
            f"{escape(institution.name)}</div><div class='lab-faint'>{escape(more)}</div>"
        )
        allowed = context.catalog.me().allowed.get(place.ref) or context.catalog.me().allowed[""]
        labels = {"projects": text("Projects")}
        if "see datasets" in allowed:
            labels["datasets"] = text("Datasets")
        if "see audit" in allowed:
            labels["requests"] = text("Data requests")
        if "see users" in allowed:
            labels["users"] = text("Users")
        labels["data"] = text("Institution data")
        makers = {
            "projects": lambda: _ProjectsTab(context, place.ref, allowed).widget,
            "datasets": lambda: DatasetsTab(context, place.ref, allowed).widget,
            "requests": lambda: RequestsTab(context, place.ref, allowed).widget,
            "users": lambda: PeopleTab(context, place.ref, allowed).widget,
            "data": lambda: _DataTab(context, place.ref, allowed).widget,
        }
        tabs = Tabs(
            context,
            labels,
            lambda name: makers[name](),
            place.tab,
            lambda name: context.note(Place("institution", place.ref, name)),
        )
        self.widget = column(head, tabs.widget)

    def close(self) -> None:
        """Nothing goes on behind it."""


class _ProjectsTab:
    """The projects of an institution, and a form for a new one."""

    def __init__(self, context: Context, institution: str, allowed: Any) -> None:
        text = context.text
        self._context = context
        self._institution = institution
        self._search = text_input(text("Search"), hint=text("name of a project"))
        self._archived = widgets.Checkbox(
            description=text("Archived ones too"), indent=False, layout={"width": "auto"}
        )
        self._list = PagedList(context, self._show)
        self._code = CodeBox(context, self._as_code)
        parts: list[widgets.Widget] = []
        if "grant datasets" in allowed:
            waiting = context.catalog.grant_requests(institution=institution, waiting=True)
            if waiting.total:
                said = text.count(
                    "{n} request for data waits for an answer: see Data requests",
                    "{n} requests for data wait for an answer: see Data requests",
                    waiting.total,
                )
                parts.append(html(escape(said), "lab-said", "lab-info"))
        parts += [
            row(self._search, self._archived),
            self._list.widget,
            self._code.widget,
        ]
        if "make projects" in allowed:
            parts.append(_NewProject(context, institution).widget)
        self.widget = column(*parts)
        self._show(1)
        for each in (self._search, self._archived):
            each.observe(lambda _: context.attempt(lambda: self._show(1)), "value")

    def _show(self, page: int) -> None:
        text = self._context.text
        found = self._context.catalog.projects(
            self._institution,
            self._search.value,
            archived=self._archived.value,
            page=page,
            per_page=PER_PAGE,
        )
        none = text("No project here yet") if not self._search.value else text("Nothing is found")
        self._list.set([self._item(one) for one in found.items], found, none)
        self._code.refresh()

    def _item(self, project: Project) -> widgets.Widget:
        text = self._context.text
        counts = " · ".join(
            [
                text.count("{n} model", "{n} models", project.models),
                text.count("{n} dataset", "{n} datasets", project.datasets),
                text.count("{n} experiment", "{n} experiments", project.experiments),
                text("changed {when}", when=moment(text, project.changed)),
            ]
        )
        archived = f" ({text('archived')})" if project.archived else ""
        words = html(
            f"<div class='lab-name'>{escape(project.name + archived)}</div>"
            f"<div>{escape(project.description)}</div>"
            f"<div class='lab-faint'>{escape(counts)}</div>"
        )
        go = Place("project", project.ref)
        tip = text("Open {name}", name=project.name)
        context = self._context
        made = row(words, button(context, text("Open"), lambda: context.go(go), tip=tip))
        made.add_class("lab-item")
        return made

    def _as_code(self) -> str:
        given = code.written(archived=self._archived.value)
        words = [self._search.value] if self._search.value else []
        return code.cell(
            f"page = {code.call('catalog.projects', self._institution, *words, **given)}",
            "[project.ref for project in page.items]",
        )


class _NewProject:
    def __init__(self, context: Context, institution: str) -> None:
        text = context.text
        self._context = context
        self._institution = institution
        self._name = text_input(text("Name"))
        self._description = text_input(text("Description"), area=True)
        self._code = CodeBox(context, self._as_code)
        make = button(context, text("Make project"), self._make, icon="plus", kind="primary")
        self.widget = column(
            title(text("New project")),
            self._name,
            self._description,
            row(make),
            self._code.widget,
        )

    def _given(self) -> dict[str, Any]:
        return code.written(description=self._description.value)

    def _make(self) -> None:
        made = self._context.catalog.add_project(
            self._institution, self._name.value, **self._given()
        )
        self._context.go(Place("project", made.ref))

    def _as_code(self) -> str:
        return code.cell(
            code.call("catalog.add_project", self._institution, self._name.value, **self._given())
        )


class _DataTab:
    """Name, CNPJ, logo, active or not; editable where the role allows."""

    def __init__(self, context: Context, key: str, allowed: Any) -> None:
        text = context.text
        self._context = context
        self._key = key
        self._before = before = context.catalog.institution(key)
        self._name = Field(text, text_input(text("Name"), before.name))
        self._cnpj = Field(text, text_input("CNPJ", formatted(before.cnpj)), check_cnpj)
        self._logo = uploader(text, text("Logo"), PICTURES)
        self._active = widgets.Checkbox(
            value=before.active, description=text("Active"), indent=False, layout={"width": "auto"}
        )
        self._code = CodeBox(context, self._as_code)
        may = "change institution" in allowed
        self._active.disabled = "make institutions" not in allowed
        for field in (self._name, self._cnpj):
            field.inside.disabled = not may
        parts = [
            title(text("Institution data"), key),
            self._name.widget,
            self._cnpj.widget,
            row(self._active),
        ]
        if may:
            save = button(context, text("Save"), self._save, icon="save", kind="primary")
            parts += [row(self._logo), row(save), self._code.widget]
        self.widget = column(*parts)

    def _changes(self) -> dict[str, Any]:
        """Return what differs from what is kept."""
        changes: dict[str, Any] = {}
        if self._name.value != self._before.name:
            changes["name"] = self._name.value
        if self._cnpj.value != formatted(self._before.cnpj):
            changes["cnpj"] = self._cnpj.value
        if self._active.value != self._before.active:
            changes["active"] = self._active.value
        logo = uploaded(self._logo, PICTURES, MOST_LOGO_BYTES)
        if logo is not None:
            changes["logo"] = logo.content
        return changes

    def _save(self) -> None:
        if not self._cnpj.check():
            return
        self._context.catalog.change_institution(self._key, **self._changes())
        self._context.go(Place("institution", self._key, "data"))
        self._context.say(self._context.text("The institution was saved"), "done")

    def _as_code(self) -> str:
        changes = self._changes()
        lines = []
        if "logo" in changes:
            lines.append('logo = open("logo.png", "rb").read()')
            changes["logo"] = code.Name("logo")
        return code.cell(*lines, code.call("catalog.change_institution", self._key, **changes))
