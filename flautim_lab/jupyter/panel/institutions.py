"""The first screen: all institutions as cards, found by name or CNPJ."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.cnpj import check_cnpj, formatted
from flautim_lab.catalog.things import Institution
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context, Place
from flautim_lab.jupyter.panel.parts import (
    CodeBox,
    Field,
    Pager,
    button,
    column,
    html,
    picture,
    row,
    text_input,
    title,
)

PER_PAGE = 12


class Institutions:
    """Cards, a search, and for the platform's administrators a form for a new institution."""

    def __init__(self, context: Context, place: Place) -> None:
        text = context.text
        self._context = context
        self._search = text_input(text("Search"), place.more, text("name or CNPJ"))
        self._active = widgets.Checkbox(
            value=place.tab == "active",
            description=text("Only active ones"),
            indent=False,
            layout={"width": "auto"},
        )
        self._cards = [_Card(context) for _ in range(PER_PAGE)]
        cards = widgets.Box([card.widget for card in self._cards])
        cards.add_class("lab-cards")
        self._none = html("", "lab-faint")
        self._pager = Pager(context, self._show)
        parts = [
            row(self._search, self._active),
            self._none,
            cards,
            self._pager.widget,
        ]
        self._code = CodeBox(context, self._as_code)
        parts.append(self._code.widget)
        if "make institutions" in context.catalog.me().allowed.get("", ()):
            parts.append(_NewInstitution(context).widget)
        self.widget = column(*parts)
        self._show(1)
        self._search.observe(self._changed, "value")
        self._active.observe(self._changed, "value")

    def close(self) -> None:
        """Nothing goes on behind it."""

    def _changed(self, _: object) -> None:
        active = "active" if self._active.value else ""
        self._context.attempt(lambda: self._show(1))
        self._context.note(Place("institutions", tab=active, more=self._search.value))

    def _show(self, page: int) -> None:
        found = self._context.catalog.institutions(
            self._search.value, active_only=self._active.value, page=page, per_page=PER_PAGE
        )
        for number, card in enumerate(self._cards):
            card.show(found.items[number] if number < len(found.items) else None)
        none = self._context.text("No institution is named so; search for less of its name or CNPJ")
        self._none.value = "" if found.items else escape(none)
        self._pager.set(found.page, found.pages, found.total)
        self._code.refresh()

    def _as_code(self) -> str:
        given = code.written(active_only=self._active.value)
        words = [self._search.value] if self._search.value else []
        return code.cell(
            f"page = {code.call('catalog.institutions', *words, **given)}",
            "[institution.name for institution in page.items]",
        )


class _Card:
    """One institution; its widgets are made once, and show another one as the search goes on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._key = ""
        self._words = html("")
        self._open = button(context, context.text("Open"), self._go, icon="folder-open")
        self.widget = widgets.VBox([self._words, self._open])
        self.widget.add_class("lab-card")

    def show(self, institution: Institution | None) -> None:
        """Show one, or nothing."""
        self.widget.layout.display = "" if institution else "none"
        if institution is None:
            return
        text = self._context.text
        self._key = institution.key
        self._open.tooltip = text("Open {name}", name=institution.name)
        facts = " · ".join(
            [
                text.count("{n} project", "{n} projects", institution.projects),
                text.count("{n} dataset", "{n} datasets", institution.datasets),
                text.count("{n} user", "{n} users", institution.users),
            ]
        )
        number = f"CNPJ {formatted(institution.cnpj)}" if institution.cnpj else ""
        state = "" if institution.active else f" · {text('inactive')}"
        self._words.value = (
            f"{picture(institution.logo, institution.name)}"
            f"<div class='lab-name'>{escape(institution.name)}</div>"
            f"<div>{escape(number)}</div><div class='lab-faint'>{escape(facts + state)}</div>"
        )

    def _go(self) -> None:
        self._context.go(Place("institution", self._key))


class _NewInstitution:
    """The form of the platform's administrators."""

    def __init__(self, context: Context) -> None:
        text = context.text
        self._context = context
        self._name = Field(text, text_input(text("Name")))
        self._cnpj = Field(text, text_input("CNPJ", hint="00.000.000/0000-00"), check_cnpj)
        self._code = CodeBox(context, self._as_code)
        make = button(context, text("Make institution"), self._make, icon="plus", kind="primary")
        form = column(self._name.widget, self._cnpj.widget, row(make), self._code.widget)
        self.widget = widgets.Accordion(
            [column(title(text("New institution")), form)],
            titles=(text("New institution"),),
            selected_index=None,
        )

    def _given(self) -> dict[str, Any]:
        return code.written(cnpj=self._cnpj.value)

    def _make(self) -> None:
        if self._cnpj.check():
            made = self._context.catalog.add_institution(self._name.value, **self._given())
            self._context.go(Place("institution", made.key))

    def _as_code(self) -> str:
        return code.cell(code.call("catalog.add_institution", self._name.value, **self._given()))
