"""The users of an institution, and what each of them is there."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.things import Person, Role
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.parts import (
    CodeBox,
    Pager,
    button,
    column,
    html,
    refill,
    row,
    table,
    text_input,
    title,
)

PER_PAGE = 20


class PeopleTab:
    """Users with their roles; who may give roles, does so here."""

    def __init__(self, context: Context, institution: str, allowed: Any) -> None:
        text = context.text
        self._context = context
        self._institution = institution
        self._may = "give roles" in allowed
        self._words = {
            Role.INSTITUTION_ADMIN: text("administrator"),
            Role.RESEARCHER: text("researcher"),
            Role.DATA_OWNER: text("data owner"),
        }
        self._list = html("")
        self._pager = Pager(context, self._show)
        parts: list[widgets.Widget] = [self._list, self._pager.widget]
        if self._may:
            self._user = text_input(text("User"), hint=text("name at the hub"))
            self._roles = {
                role: widgets.Checkbox(description=words, indent=False, layout={"width": "auto"})
                for role, words in self._words.items()
            }
            self._code = CodeBox(context, self._as_code)
            save = button(context, text("Save roles"), self._save, icon="save", kind="primary")
            off = button(context, text("Remove user"), self._remove, icon="trash")
            parts += [
                title(text("Add a user, or change what one is")),
                self._user,
                row(*self._roles.values()),
                row(save, off),
                self._code.widget,
            ]
            self._user.observe(lambda _: context.attempt(self._known), "value")
        self.widget = column(*parts)
        self._show(1)

    def _show(self, page: int) -> None:
        text = self._context.text
        found = self._context.catalog.users(self._institution, page=page, per_page=PER_PAGE)
        rows = [[person.user, self._in_words(person)] for person in found.items]
        self._list.value = (
            table([text("User"), text("Roles")], rows)
            if rows
            else f"<span class='lab-faint'>{text('Nobody has a role here yet')}</span>"
        )
        if any(person.from_hub for person in found.items):
            from_hub = text("Who comes from the hub is in its list; who runs the hub changes that.")
            self._list.value += f"<span class='lab-faint'>{from_hub}</span>"
        self._pager.set(found.page, found.pages, found.total)

    def _in_words(self, person: Person) -> str:
        words = ", ".join(words for role, words in self._words.items() if role in person.roles)
        return f"{words} ({self._context.text('from the hub')})" if person.from_hub else words

    def _known(self) -> None:
        """Show what somebody is already whose name is typed."""
        found = self._context.catalog.users(self._institution, per_page=100)
        for person in found.items:
            if person.user == self._user.value:
                for role, box in self._roles.items():
                    box.value = role in person.roles

    def _chosen(self) -> list[str]:
        return [role.value for role, box in self._roles.items() if box.value]

    def _save(self) -> None:
        self._context.catalog.set_roles(
            self._institution, self._user.value, [Role(role) for role in self._chosen()]
        )
        self._say(self._context.text("The roles of {user} were saved", user=self._user.value))

    def _remove(self) -> None:
        self._context.catalog.remove_user(self._institution, self._user.value)
        self._say(self._context.text("{user} was removed", user=self._user.value))

    def _say(self, sentence: str) -> None:
        self._show(1)
        self._context.say(sentence, "done")

    def _as_code(self) -> str:
        return code.cell(
            code.call("catalog.set_roles", self._institution, self._user.value, self._chosen())
        )


class MembersTab:
    """Who works on a project."""

    def __init__(self, context: Context, project: str, *, may: bool) -> None:
        text = context.text
        self._context = context
        self._project = project
        self._list = widgets.VBox()
        self._may = may
        parts: list[widgets.Widget] = [self._list]
        if may:
            self._user = text_input(text("User"), hint=text("of any institution"))
            self._code = CodeBox(context, self._as_code)
            add = button(context, text("Add member"), self._add, icon="plus", kind="primary")
            parts += [title(text("Add a member")), self._user, row(add), self._code.widget]
        self.widget = column(*parts)
        self._show()

    def _show(self) -> None:
        members = self._context.catalog.members(self._project)
        refill(self._list, [self._item(user) for user in members])

    def _item(self, user: str) -> widgets.Widget:
        words = html(table([], [[user]]))
        if not self._may:
            return row(words)
        text = self._context.text
        tip = text("Remove {user}", user=user)
        made = row(
            words,
            button(
                self._context, text("Remove"), lambda: self._remove(user), icon="trash", tip=tip
            ),
        )
        made.add_class("lab-item")
        return made

    def _add(self) -> None:
        self._context.catalog.add_member(self._project, self._user.value)
        self._show()

    def _remove(self, user: str) -> None:
        self._context.catalog.remove_member(self._project, user)
        self._show()

    def _as_code(self) -> str:
        return code.cell(code.call("catalog.add_member", self._project, self._user.value))
