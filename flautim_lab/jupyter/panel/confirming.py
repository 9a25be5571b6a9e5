"""Asks once more before what is wide: a sentence that says what it does, and a button for yes."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.parts import button, column, html, row
from flautim_lab.jupyter.panel.text import Text


class Confirmed:
    """A button whose press only shows what would be done; another one does it.

    Parameters
    ----------
    label, icon : str
        Of the button.
    asks : callable
        Gives the sentence that says what would be done; raises an error of ours for what cannot be.
    yes : str
        What the button that does it says.
    work : callable
        Does it.

    Attributes
    ----------
    button : Button
        Goes where the form has its buttons.
    widget : VBox
        The sentence and its answers, below them; hidden until the button is pressed.
    """

    def __init__(
        self,
        context: Context,
        label: str,
        asks: Callable[[], str],
        yes: str,
        work: Callable[[], Any],
        *,
        icon: str = "",
    ) -> None:
        self._asks, self._work = asks, work
        self._sentence = html("", "lab-wrong")
        self.button = button(context, label, self._ask, icon=icon)
        sure = button(context, yes, self._do, icon=icon, kind="warning")
        self.widget = column(
            self._sentence, row(sure, button(context, context.text("Cancel"), self.close))
        )
        self.close()

    def close(self) -> None:
        """Ask no more: what was asked about was changed, or is not wanted."""
        self._sentence.value = ""
        self.widget.layout.display = "none"

    def _ask(self) -> None:
        self.close()
        self._sentence.value = escape(self._asks())
        self.widget.layout.display = ""

    def _do(self) -> None:
        self.close()
        self._work()


def any_code(text: Text, dataset: str, project: str) -> str:
    """Return what a grant for any code gives away, as the question before it."""
    return text(
        "Any code of {project} could then read {dataset}: also what nobody here has read, and what "
        "is written later. Is that what you want?",
        project=project,
        dataset=dataset,
    )
