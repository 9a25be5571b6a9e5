"""What all screens are built of: buttons, fields with their sentence, tabs, pages, tables.

Whatever a person typed is escaped before it becomes HTML. Handlers run under the panel's lock, in
whichever thread a click arrives, and an error of ours becomes a sentence.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape, unescape
from typing import Any, TypeVar

import ipywidgets as widgets

from flautim_lab.catalog.things import Page
from flautim_lab.errors import FlautimError
from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.text import Text

T = TypeVar("T")
WIDE = {"description_width": "initial"}


def html(content: str, *classes: str) -> widgets.HTML:
    """Return HTML whose parts are escaped already."""
    made = widgets.HTML(content)
    for name in classes:
        made.add_class(name)
    return made


def title(words: str, more: str = "") -> widgets.HTML:
    """Return a screen's or a form's title."""
    small = f'<span class="lab-faint"> {escape(more)}</span>' if more else ""
    return html(f"<h3 class='lab-title'>{escape(words)}{small}</h3>")


def button(
    context: Context,
    label: str,
    work: Callable[[], Any],
    *,
    icon: str = "",
    kind: str = "",
    tip: str = "",
) -> widgets.Button:
    """Return a button that does ``work``."""
    made = widgets.Button(
        description=label,
        icon=icon,
        button_style=kind,
        tooltip=tip or label,
        layout={"width": "auto"},
    )
    made.on_click(lambda _: context.attempt(work))
    return made


def while_disabled(
    context: Context, pressed: widgets.Button, work: Callable[[], T], then: Callable[[T], Any]
) -> None:
    """Do ``work`` in the background; until it is done, its button cannot be pressed again."""
    pressed.disabled = True

    def do() -> T:
        try:
            return work()
        finally:
            pressed.disabled = False

    context.in_background(do, then)


def row(*children: widgets.Widget) -> widgets.Box:
    """Return widgets beside each other, on more lines where it is narrow."""
    made = widgets.Box(children)
    made.add_class("lab-row")
    return made


def fields(*children: widgets.Widget) -> widgets.Box:
    """Return fields beside each other: a sentence below one of them does not push the others."""
    made = row(*children)
    made.add_class("lab-fields")
    return made


def column(*children: widgets.Widget) -> widgets.VBox:
    """Return widgets below each other."""
    return widgets.VBox(children, layout={"width": "100%"})


def text_input(label: str, value: str = "", hint: str = "", *, area: bool = False) -> widgets.Text:
    """Return a field for text, its label beside it."""
    kind = widgets.Textarea if area else widgets.Text
    made = kind(
        value=value,
        description=label,
        placeholder=hint,
        style=WIDE,
        layout={"width": "calc(100% - 4px)", "max_width": "640px"},
    )
    made.add_class("lab-input")
    return made


class Field:
    """An input, and below it the sentence about what is wrong with it.

    Parameters
    ----------
    text : Text
        The language of the sentence.
    inside : Widget
        With a ``value``.
    check : callable, optional
        Takes the value; raises an error of ours for one that cannot be.
    changed : callable, optional
        Called after each change.
    """

    def __init__(
        self,
        text: Text,
        inside: Any,
        check: Callable[[Any], Any] | None = None,
        changed: Callable[[], Any] | None = None,
    ) -> None:
        self._text = text
        self.inside = inside
        self._check = check
        self._changed = changed
        self._sentence = html("", "lab-wrong")
        self._sentence.layout.display = "none"
        self.widget = column(inside, self._sentence)
        inside.observe(self._look, "value")

    @property
    def value(self) -> Any:
        """What is in it."""
        return self.inside.value

    @property
    def wrong(self) -> str:
        """The sentence that is shown."""
        return unescape(str(self._sentence.value))

    def say(self, sentence: str) -> None:
        """Show a sentence below the input; none for ``""``."""
        self._sentence.value = escape(sentence)
        self._sentence.layout.display = "" if sentence else "none"

    def check(self) -> bool:
        """Look whether the value can be, and say why not."""
        if self._check is not None:
            try:
                self._check(self.value)
            except FlautimError as error:
                self.say(self._text.sentence(error))
                return False
        self.say("")
        return True

    def _look(self, _: object) -> None:
        self.check()
        if self._changed is not None:
            self._changed()


class Tabs:
    """A row of buttons, and below it what belongs to the one that was pressed; made when shown.

    Parameters
    ----------
    labels : mapping of str to str
        By a name that does not depend on the language.
    make : callable
        Gives the widget of a name.
    shown : str
        Which is shown first.
    chosen : callable
        Is told which one is shown.
    """

    def __init__(
        self,
        context: Context,
        labels: Mapping[str, str],
        make: Callable[[str], widgets.Widget],
        shown: str = "",
        chosen: Callable[[str], Any] | None = None,
    ) -> None:
        self._context = context
        self._make = make
        self._chosen = chosen
        self.name = shown if shown in labels else next(iter(labels))
        self._buttons = {
            name: button(context, label, lambda name=name: self.show(name))  # type: ignore[misc]
            for name, label in labels.items()
        }
        for each in self._buttons.values():
            each.add_class("lab-tab")
        self._body = widgets.VBox(layout={"width": "100%"})
        bar = row(*self._buttons.values())
        bar.add_class("lab-tabs")
        self.widget = column(bar, self._body)
        self._fill()

    def show(self, name: str) -> None:
        """Show the tab of a name, made anew; what was said of another one is over."""
        self._context.say("")
        self.name = name
        self._fill()
        if self._chosen is not None:
            self._chosen(name)

    def _fill(self) -> None:
        for name, each in self._buttons.items():
            (each.add_class if name == self.name else each.remove_class)("lab-tab-shown")
        refill(self._body, [self._make(self.name)])


class Pager:
    """Buttons to the page before and the page after."""

    def __init__(self, context: Context, show: Callable[[int], Any]) -> None:
        self._text = context.text
        self.page = 1
        self._before = button(
            context, context.text("Previous"), lambda: show(self.page - 1), icon="chevron-left"
        )
        self._after = button(
            context, context.text("Next"), lambda: show(self.page + 1), icon="chevron-right"
        )
        self._words = html("", "lab-faint")
        self.widget = row(self._before, self._words, self._after)

    def set(self, page: int, pages: int, total: int) -> None:
        """Say which page is shown."""
        self.page = page
        self._words.value = escape(
            self._text(
                "Page {page} of {pages} ({total} in all)", page=page, pages=pages, total=total
            )
        )
        self._before.disabled = page <= 1
        self._after.disabled = page >= pages
        self.widget.layout.display = "" if pages > 1 else "none"


class PagedList:
    """Things in pages, each with its buttons.

    Parameters
    ----------
    show : callable
        Shows the page of a number, by :meth:`set`.
    """

    def __init__(self, context: Context, show: Callable[[int], Any]) -> None:
        self._list = widgets.VBox(layout={"width": "100%"})
        self._pager = Pager(context, show)
        self.widget = column(self._list, self._pager.widget)

    @property
    def page(self) -> int:
        """Which one is shown."""
        return self._pager.page

    def set(self, items: Sequence[widgets.Widget], page: Page[Any], none: str = "") -> None:
        """Show the things of a page, or where there are none the words for that."""
        refill(self._list, items or ([html(escape(none), "lab-faint")] if none else []))
        self._pager.set(page.page, page.pages, page.total)


class CodeBox:
    """*Show as code*: the Python that does what a form does."""

    def __init__(self, context: Context, make: Callable[[], str]) -> None:
        self._make = make
        self._context = context
        self._code = html("")
        self._toggle = widgets.ToggleButton(
            description=context.text("Show as code"),
            icon="code",
            layout={"width": "auto", "align_self": "flex-start"},
        )
        self._toggle.observe(lambda _: self.refresh(), "value")
        self.widget = column(self._toggle, self._code)

    def refresh(self) -> None:
        """Show what the form does now."""
        shown = self._context.attempt(self._make) if self._toggle.value else None
        self._code.value = f"<pre class='lab-code'>{escape(shown)}</pre>" if shown else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML; everything in it is text."""
    head = "".join(f"<th scope='col'>{escape(word)}</th>" for word in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
        for cells in rows
    )
    return f"<table class='lab-table'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(content: bytes, alt: str) -> str:
    """Return a logo as HTML, or the first letter of what it would stand for."""
    if not content:
        return (
            f"<span class='lab-logo lab-letter' aria-hidden='true'>{escape(alt[:1].upper())}</span>"
        )
    kind = "png" if content[:4] == b"\x89PNG" else "webp" if content[:4] == b"RIFF" else "jpeg"
    data = base64.b64encode(content).decode("ascii")
    source = f"data:image/{kind};base64,{data}"
    return f"<img class='lab-logo' alt='{escape(alt, quote=True)}' src='{source}'>"


def moment(text: Text, seconds: float) -> str:
    """Return a time of this machine's zone, as it is written in the language."""
    if not seconds:
        return ""
    form = "%d/%m/%Y %H:%M" if text.language == "pt_BR" else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(seconds))


def refill(box: widgets.Box, items: Sequence[widgets.Widget]) -> None:
    """Put other widgets into a box, and close those that were in it."""
    before = box.children
    box.children = tuple(items)
    for old in before:
        close_all(old)


def close_all(widget: widgets.Widget) -> None:
    """Close a widget and all that is in it, so that nothing of it stays in the kernel."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    for kept in ("layout", "style"):  # widgets of their own, which closing does not reach
        made = getattr(widget, kept, None)
        if isinstance(made, widgets.Widget):
            made.close()
    widget.close()
