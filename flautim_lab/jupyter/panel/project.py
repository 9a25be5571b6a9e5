"""A project: its experiments, its runs, its models, the datasets it may use, its members."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.things import ExperimentVersion, ModelVersion, RunLink
from flautim_lab.errors import RecordsError
from flautim_lab.jupyter.html import STATUS_COLORS
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context, Place
from flautim_lab.jupyter.panel.parts import (
    CodeBox,
    PagedList,
    Tabs,
    button,
    column,
    html,
    moment,
    row,
    text_input,
    title,
    while_disabled,
)
from flautim_lab.jupyter.panel.people import MembersTab
from flautim_lab.jupyter.panel.project_data import ProjectData
from flautim_lab.names import duration
from flautim_lab.runners.saved import start_apart

PER_PAGE = 10


class ProjectScreen:
    """A project, in tabs."""

    def __init__(self, context: Context, place: Place) -> None:
        text = context.text
        project = context.catalog.project(place.ref)
        me = context.catalog.me()
        member = me.user in context.catalog.members(place.ref)
        allowed = me.allowed.get(project.institution) or me.allowed[""]
        # ``allowed`` is what they may do in a project of theirs, if this is one.
        work = member or _is_alone(allowed)
        may_change = work or "give roles" in allowed
        archived = f" ({text('archived')})" if project.archived else ""
        head = html(
            f"<div class='lab-big'>{escape(project.name + archived)}</div>"
            f"<div>{escape(project.description)}</div>"
        )
        labels = {
            "experiments": text("Experiments"),
            "runs": text("Runs"),
            "models": text("Models"),
            "datasets": text("Datasets"),
            "members": text("Members"),
        }
        if may_change:
            labels["settings"] = text("Settings")
        makers = {
            "experiments": lambda: _ExperimentsTab(context, place.ref, work=work).widget,
            "runs": lambda: _RunsTab(context, place.ref).widget,
            "models": lambda: _ModelsTab(context, place.ref, work=work).widget,
            "datasets": lambda: ProjectData(context, place.ref, work=work).widget,
            "members": lambda: MembersTab(context, place.ref, may=may_change).widget,
            "settings": lambda: _SettingsTab(context, place.ref).widget,
        }
        tabs = Tabs(
            context,
            labels,
            lambda name: makers[name](),
            place.tab,
            lambda name: context.note(Place("project", place.ref, name)),
        )
        self.widget = column(head, tabs.widget)

    def close(self) -> None:
        """Nothing goes on behind it."""


def _is_alone(allowed: Any) -> bool:
    """Whether who asks may do everything: without a hub there are no members to be one of."""
    return "make institutions" in allowed and "do work" in allowed and "grant datasets" in allowed


class _ExperimentsTab:
    def __init__(self, context: Context, project: str, *, work: bool) -> None:
        text = context.text
        self._context = context
        self._list = PagedList(context, self._show)
        self._project = project
        self._work = work
        new = button(
            context,
            text("New experiment"),
            lambda: context.go(Place("new experiment", project)),
            icon="plus",
            kind="primary",
        )
        self._search = text_input(text("Search"), hint=text("name of an experiment"))
        self._archived = widgets.Checkbox(
            description=text("Archived ones too"), indent=False, layout={"width": "auto"}
        )
        self._code = CodeBox(context, self._as_code)
        what = text("Members of the project make and run experiments; one of them may add you")
        self.widget = column(
            row(new) if work else html(escape(what), "lab-faint"),
            row(self._search, self._archived),
            self._list.widget,
            self._code.widget,
        )
        self._show(1)
        for each in (self._search, self._archived):
            each.observe(lambda _: context.attempt(lambda: self._show(1)), "value")

    def _show(self, page: int) -> None:
        found = self._context.catalog.experiments(
            self._project,
            self._search.value,
            archived=self._archived.value,
            page=page,
            per_page=PER_PAGE,
        )
        none = self._context.text("No experiment here yet")
        self._list.set([self._item(one) for one in found.items], found, none)
        self._code.refresh()

    def _item(self, experiment: ExperimentVersion) -> widgets.Widget:
        text, context = self._context.text, self._context
        settings = experiment.settings
        facts = " · ".join(
            [
                text("version {n}", n=experiment.number),
                str(settings.get("strategy", "FedAvg")),
                text.count("{n} round", "{n} rounds", int(settings.get("rounds", 10))),
                experiment.model,
                *experiment.datasets,
                moment(text, experiment.created),
            ]
        )
        archived = f" ({text('archived')})" if experiment.archived else ""
        words = html(
            f"<div class='lab-name'>{escape(experiment.name + archived)}</div>"
            f"<div>{escape(experiment.details)}</div>"
            f"<div class='lab-faint'>{escape(facts)}</div>"
        )
        parts: list[widgets.Widget] = [words]
        if self._work:
            name = experiment.name
            run = button(
                context,
                text("Run"),
                lambda: self._run(experiment, run),
                icon="play",
                tip=text("Run {name}", name=name),
            )
            clone = Place("new experiment", self._project, more=experiment.ref)
            put_away = text("Take back") if experiment.archived else text("Archive")
            parts += [
                run,
                button(
                    context,
                    text("Clone"),
                    lambda: context.go(clone),
                    icon="copy",
                    tip=text("Clone {name}", name=name),
                ),
                button(context, put_away, lambda: self._archive(experiment), icon="archive"),
            ]
        made = row(*parts)
        made.add_class("lab-item")
        return made

    def _run(self, experiment: ExperimentVersion, pressed: widgets.Button) -> None:
        text = self._context.text
        self._context.say(text("{name} is being started…", name=experiment.name))
        # A start takes a while, and a second press would be a second run.
        while_disabled(
            self._context,
            pressed,
            lambda: start_apart(experiment.ref),
            lambda run: self._context.go(Place("run", run, more=self._project)),
        )

    def _archive(self, experiment: ExperimentVersion) -> None:
        self._context.catalog.archive_experiment(experiment.ref, not experiment.archived)
        self._show(1)

    def _as_code(self) -> str:
        given = code.written(archived=self._archived.value)
        words = [self._search.value] if self._search.value else []
        return code.cell(
            f"page = {code.call('catalog.experiments', self._project, *words, **given)}",
            "first = page.items[0]",
            "",
            "# Run, clone, archive:",
            "run = lab.run_saved(first.ref)",
            "experiment = lab.saved_experiment(first.ref)",
            "catalog.archive_experiment(first.ref)",
        )


class _RunsTab:
    def __init__(self, context: Context, project: str) -> None:
        self._context = context
        self._list = PagedList(context, self._show)
        self._project = project
        self._code = CodeBox(
            context,
            lambda: code.cell(
                f"page = {code.call('catalog.runs', project)}",
                "run = lab.attach(page.items[0].run_id)",
                "run",
            ),
        )
        self.widget = column(self._list.widget, self._code.widget)
        self._show(1)

    def _show(self, page: int) -> None:
        found = self._context.catalog.runs(self._project, page=page, per_page=PER_PAGE)
        none = self._context.text("Nothing was run here yet")
        self._list.set([self._item(link) for link in found.items], found, none)

    def _item(self, link: RunLink) -> widgets.Widget:
        text, context = self._context.text, self._context
        words = [f"<div class='lab-name'>{escape(link.experiment.split('/')[-1])}</div>"]
        try:
            record = context.records.run(link.run_id)
        except RecordsError:
            facts = [text("its records are not on this machine")]
        else:
            color = STATUS_COLORS[record.status]
            status = text.status(record.status)
            words.append(f"<span style='color:{color}'>●</span> {escape(status)} ")
            facts = [
                f"{record.round}/{record.rounds} {text('rounds')}",
                duration(record.seconds or 0.0),
            ]
        if link.stop_asked_by:
            facts.append(
                text("its end was asked for by a data owner, {user}", user=link.stop_asked_by)
            )
        facts += [link.started_by, moment(text, link.created), link.run_id]
        words.append(f"<span class='lab-faint'>{escape(' · '.join(facts))}</span>")
        go = Place("run", link.run_id, more=self._project)
        tip = text("Open run {name}", name=link.run_id)
        made = row(
            html("".join(words)), button(context, text("Open"), lambda: context.go(go), tip=tip)
        )
        made.add_class("lab-item")
        return made


class _ModelsTab:
    def __init__(self, context: Context, project: str, *, work: bool) -> None:
        self._context = context
        self._list = PagedList(context, self._show)
        self._project = project
        self._work = work
        self._code = CodeBox(
            context,
            lambda: code.cell(
                f"page = {code.call('catalog.models', project)}",
                "Net = lab.model(page.items[0].ref)",
            ),
        )
        self.widget = column(self._list.widget, self._code.widget)
        self._show(1)

    def _show(self, page: int) -> None:
        found = self._context.catalog.models(self._project, page=page, per_page=PER_PAGE)
        none = self._context.text("No model here yet; a new experiment takes one from a .py file")
        self._list.set([self._item(model) for model in found.items], found, none)

    def _item(self, model: ModelVersion) -> widgets.Widget:
        text = self._context.text
        facts = " · ".join([model.ref, model.class_name, moment(text, model.created)])
        words = html(
            f"<div class='lab-name'>{escape(model.name)}</div>"
            f"<div class='lab-faint'>{escape(facts)}</div><details><summary>"
            f"{escape(text('Source'))}</summary><pre class='lab-code'>{escape(model.source)}</pre>"
            "</details>"
        )
        parts: list[widgets.Widget] = [words]
        if self._work:
            away = lambda: self._archive(model)  # noqa: E731
            parts.append(button(self._context, text("Archive"), away, icon="archive"))
        made = row(*parts)
        made.add_class("lab-item")
        return made

    def _archive(self, model: ModelVersion) -> None:
        self._context.catalog.archive_model(model.ref)
        self._show(1)


class _SettingsTab:
    """Name and description; archive, or remove what was never run."""

    def __init__(self, context: Context, ref: str) -> None:
        text = context.text
        self._context = context
        self._ref = ref
        project = context.catalog.project(ref)
        self._archived = project.archived
        self._name = text_input(text("Name"), project.name)
        self._description = text_input(text("Description"), project.description, area=True)
        self._code = CodeBox(context, self._as_code)
        away = text("Take back") if project.archived else text("Archive")
        self.widget = column(
            title(text("Project"), ref),
            self._name,
            self._description,
            row(
                button(context, text("Save"), self._save, icon="save", kind="primary"),
                button(context, away, self._archive, icon="archive"),
                button(context, text("Remove project"), self._remove, icon="trash"),
            ),
            self._code.widget,
        )

    def _given(self) -> dict[str, Any]:
        return {"name": self._name.value, "description": self._description.value}

    def _save(self) -> None:
        self._context.catalog.change_project(self._ref, **self._given())
        self._context.go(Place("project", self._ref, "settings"))
        self._context.say(self._context.text("The project was saved"), "done")

    def _archive(self) -> None:
        self._context.catalog.change_project(self._ref, archived=not self._archived)
        self._context.go(Place("project", self._ref, "settings"))

    def _remove(self) -> None:
        self._context.catalog.remove_project(self._ref)
        self._context.go(Place("institution", self._ref.partition("/")[0]))

    def _as_code(self) -> str:
        return code.cell(code.call("catalog.change_project", self._ref, **self._given()))
