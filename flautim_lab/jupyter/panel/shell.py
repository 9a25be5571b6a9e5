"""``lab.panel()``: institutions, projects, experiments and runs as forms in a notebook.

The shell has the way back at its head, one sentence about what happened, and below them one screen.
Where somebody is, and in which language, is kept in the catalog: a reload of the page or a restart
of the kernel lands there again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, TypeVar

import ipywidgets as widgets

from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.opening import open_catalog
from flautim_lab.errors import CatalogError, FlautimError
from flautim_lab.jupyter.panel.context import Place, Screen
from flautim_lab.jupyter.panel.look import STYLE
from flautim_lab.jupyter.panel.parts import button, close_all, html, refill, row
from flautim_lab.jupyter.panel.text import LANGUAGES, Text
from flautim_lab.records.store import Records

T = TypeVar("T")
KEPT = "panel"  # under which the catalog remembers
_log = logging.getLogger(__name__)
_shown: Panel | None = None


def panel() -> Panel:
    """Return the panel: the last expression of a cell shows it.

    Every button does what a call in Python does too; *Show as code* tells which. Institutions are
    found by name or CNPJ; an institution has projects, users and datasets; a project has models,
    experiments and runs; an experiment is made by a form, and watched on a page.

    Returns
    -------
    Panel
        The same one each time, where it was left, until its widgets are closed.

    Raises
    ------
    CatalogError
        If the catalog cannot be opened.

    Notes
    -----
    The screens are those of Flautim (its paper, section 4). The language is that of the
    environment (``FLAUTIM_LAB_LANGUAGE`` goes first), and can be switched.
    """
    global _shown
    catalog = open_catalog()
    if _shown is None or _shown.catalog is not catalog or _shown.widget.comm is None:
        _shown = Panel(catalog, Records.default())
    return _shown


class Panel:
    """The panel; see :func:`panel`.

    Parameters
    ----------
    catalog : Catalog
    records : Records
    """

    def __init__(self, catalog: Catalog, records: Records) -> None:
        self.catalog = catalog
        self.records = records
        self.drafts: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._screen: Screen | None = None
        kept = self._kept()
        self.text = Text(str(kept.get("language", "")))
        self._place = _place(kept)
        self._way = row()
        self._language = widgets.Dropdown(
            options=[(name, key) for key, name in LANGUAGES.items()],
            value=self.text.language,
            description=self.text("Language"),
            layout={"width": "210px"},
        )
        self._language.observe(self._switch, "value")
        head = row(self._way, self._language)
        head.add_class("lab-head")
        self._said = html("")
        self._said.layout.display = "none"
        self._body = widgets.VBox(layout={"width": "100%"})
        self.widget = widgets.VBox([html(STYLE), head, self._said, self._body])
        self.widget.add_class("lab-panel")
        self._show()

    # --- what a screen may ask for: see context.py -----------------------------------------

    @property
    def place(self) -> Place:
        """Where somebody is."""
        return self._place

    def go(self, place: Place) -> None:
        """Show another place, and remember it."""
        with self._lock:
            self.say("")
            self.note(place)
            self._show()

    def note(self, place: Place) -> None:
        """Remember where in the present screen somebody is, without showing it anew."""
        with self._lock:
            self._place = place
            try:
                self.catalog.remember(KEPT, {**place.kept(), "language": self.text.language})
            except CatalogError as error:
                self.say(self.text.sentence(error), "error")

    def say(self, sentence: str, kind: str = "info") -> None:
        """Show a sentence at the panel's head; ``""`` takes it away."""
        role = "alert" if kind == "error" else "status"
        self._said.value = (
            f"<div class='lab-said lab-{kind}' role='{role}'>{escape(sentence)}</div>"
            if sentence
            else ""
        )
        self._said.layout.display = "" if sentence else "none"

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Return what ``work`` returns; an error of ours is said, and gives ``None``."""
        with self._lock:
            try:
                return work()
            except FlautimError as error:
                self.say(self.text.sentence(error), "error")
            except Exception as error:  # noqa: BLE001 - a click has nobody to raise to
                _log.exception("the panel failed")
                self.say(f"{type(error).__name__}: {error}", "error")
        return None

    def in_background(self, work: Callable[[], T], then: Callable[[T], Any]) -> None:
        """Do ``work`` in a thread, and then ``then`` with its result, if the screen is still there.

        An error of ours is said.
        """
        screen = self._screen

        def do() -> None:
            try:
                found = work()
            except Exception as error:  # noqa: BLE001 - said, whatever it is
                failed = error

                def fail() -> None:
                    raise failed

                self.attempt(fail)
                return
            with self._lock:
                # None: the screen asked while it was being made.
                if screen is None or self._screen is screen:
                    self.attempt(lambda: then(found))

        threading.Thread(target=do, name="panel", daemon=True).start()

    # --- the shell itself -------------------------------------------------------------------

    def close(self) -> None:
        """End what goes on behind the panel, and close its widgets."""
        with self._lock:
            if self._screen is not None:
                self._screen.close()
                self._screen = None
            close_all(self.widget)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)  # type: ignore[no-untyped-call]

    def _kept(self) -> Mapping[str, Any]:
        try:
            return self.catalog.remembered(KEPT)
        except CatalogError:
            return {}

    def _switch(self, _: object) -> None:
        with self._lock:
            self.text = Text(self._language.value)
            self._language.description = self.text("Language")
            self.note(self._place)
            self.say("")
            self._show()

    def _show(self) -> None:
        """Make the screen of the place; where that cannot be, the one above it."""
        if self._screen is not None:
            self._screen.close()
            self._screen = None
        try:
            self._screen = screen = _make(self, self._place)
        except FlautimError as error:
            # What was there may be gone, or not be shown to them any more.
            if self._place.screen == "institutions":
                self._body.children = ()
                self.say(self.text.sentence(error), "error")
                return
            self.note(_above(self._place))
            self._show()
            self.say(self.text.sentence(error), "error")
            return
        refill(self._body, [screen.widget])
        self._set_way()

    def _set_way(self) -> None:
        """Show the way from the institutions to here, each step a button."""
        steps: list[widgets.Widget] = []
        for place, words in _steps(self._place, self.text):
            here = place.screen == self._place.screen and place.ref == self._place.ref
            step = button(self, words, lambda place=place: self.go(place))  # type: ignore[misc]
            step.disabled = here
            steps += [html("<span aria-hidden='true'>›</span>"), step] if steps else [step]
        refill(self._way, steps)


def _make(context: Panel, place: Place) -> Screen:
    """Return the screen of a place; screens are loaded when they are first shown."""
    if place.screen == "institution":
        from flautim_lab.jupyter.panel.institution import InstitutionScreen

        return InstitutionScreen(context, place)
    if place.screen == "project":
        from flautim_lab.jupyter.panel.project import ProjectScreen

        return ProjectScreen(context, place)
    if place.screen == "new experiment":
        from flautim_lab.jupyter.panel.new_experiment import NewExperiment

        return NewExperiment(context, place)
    if place.screen == "run":
        from flautim_lab.jupyter.panel.run_page import RunPage

        return RunPage(context, place)
    from flautim_lab.jupyter.panel.institutions import Institutions

    return Institutions(context, place)


def _place(kept: Mapping[str, Any]) -> Place:
    """Return the place that was kept; what is missing is as at the start."""
    names = Place().kept()
    return Place(**{name: str(kept.get(name, value)) for name, value in names.items()})


def _above(place: Place) -> Place:
    """Return the place from which one comes to a place."""
    if place.screen == "run" and place.more:
        return Place("project", place.more, "runs")
    if place.screen == "new experiment":
        return Place("project", place.ref)
    if place.screen == "project":
        return Place("institution", place.ref.partition("/")[0])
    return Place()


def _steps(place: Place, text: Text) -> list[tuple[Place, str]]:
    """Return the way to a place."""
    steps = [(Place(), text("Institutions"))]
    project = place.more if place.screen == "run" else place.ref
    key, _, rest = project.partition("/")
    if place.screen != "institutions" and key:
        steps.append((Place("institution", key), key))
        if rest:
            steps.append((Place("project", project), rest))
    if place.screen == "new experiment":
        steps.append((place, text("New experiment")))
    if place.screen == "run":
        steps.append((place, text("This run")))
    return steps
