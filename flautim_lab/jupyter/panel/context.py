"""What every screen of the panel is given: the catalog, the records, words, and the way on.

A screen is made for a :class:`Place`, shows itself in ``widget``, and is closed when the panel goes
on to another. It knows no other screen: it asks the context to ``go`` to a place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import ipywidgets as widgets

from flautim_lab.catalog.interface import Catalog
from flautim_lab.jupyter.panel.text import Text
from flautim_lab.records.store import Records

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where in the panel somebody is: kept in the catalog, so that a reload lands there again.

    Attributes
    ----------
    screen : {"institutions", "institution", "project", "new experiment", "run"}
    ref : str
        The institution, the project, or for a run its id; ``new experiment`` has its project's.
    tab : str
        Of the screen's tabs, by a name that does not depend on the language.
    more : str
        What else the screen needs: for a run the project's reference it is looked at from, for a
        new experiment the reference of the experiment that it is a clone of.
    """

    screen: str = "institutions"
    ref: str = ""
    tab: str = ""
    more: str = ""

    def kept(self) -> dict[str, str]:
        """Return it as :meth:`Catalog.remember` keeps it."""
        return asdict(self)


class Screen(Protocol):
    """One screen."""

    widget: widgets.Widget

    def close(self) -> None:
        """End what goes on behind the screen, and close its widgets."""


class Context(Protocol):
    """What the panel offers its screens.

    Attributes
    ----------
    catalog : Catalog
    records : Records
    text : Text
        ``text("Run experiment")``, ``text.count("{n} project", "{n} projects", n)``.
    drafts : dict
        What was typed into a form and not saved, by the form's own key: it outlives the screen,
        which is made anew when the language is switched.
    """

    catalog: Catalog
    records: Records
    text: Text
    drafts: dict[str, Any]

    def go(self, place: Place) -> None:
        """Show another place, and remember it."""

    def note(self, place: Place) -> None:
        """Remember where in the present screen somebody is (another tab), without showing anew."""

    def say(self, sentence: str, kind: str = "info") -> None:
        """Show a sentence at the panel's head until the next one; ``kind``: info, done, error."""

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Return what ``work`` returns; an error of ours is said, and gives ``None``."""

    def in_background(self, work: Callable[[], T], then: Callable[[T], Any]) -> None:
        """Do ``work`` in a thread, and then ``then`` with its result under the panel's lock.

        An error of ours is said. Nothing is done any more when the screen was closed meanwhile.
        """
