"""The form for a new experiment: what, from what, how, where; checked, estimated, run."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.code import code_of
from flautim_lab.catalog.things import MADE_UP, REAL, DatasetVersion, ModelVersion
from flautim_lab.errors import FlautimError
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context, Place
from flautim_lab.jupyter.panel.files_form import DatasetFile, HyperparameterFile, ModelFile
from flautim_lab.jupyter.panel.parts import (
    CodeBox,
    Field,
    button,
    column,
    html,
    row,
    text_input,
    title,
)
from flautim_lab.jupyter.panel.settings_form import SettingsForm
from flautim_lab.names import check_name, duration
from flautim_lab.runners.check import SHOWN_CLIENTS, Estimate, check_apart
from flautim_lab.runners.saved import start_apart


class NewExperiment:
    """The form; ``place.more`` is the experiment that this one is a clone of."""

    def __init__(self, context: Context, place: Place) -> None:
        text = context.text
        self._context = context
        self._project = place.ref
        self._key = f"new experiment {place.ref} {place.more}"
        context.catalog.project(place.ref)
        self._made = False
        self._name = Field(text, text_input(text("Name")), self._check_name, self._changed)
        self._details = text_input(text("Details"), hint=text("optional"), area=True)
        self._settings = SettingsForm(text, self._changed)
        self._model = ModelFile(context, place.ref, self._changed)
        self._dataset = DatasetFile(context, place.ref, self._changed)
        self._file = HyperparameterFile(context, self._fill)
        self._wrong = html("", "lab-wrong")
        self._wrong.layout.display = "none"
        self._facts = html("")
        self._picture = widgets.Image(
            format="png", layout={"max_width": "100%", "height": "auto", "display": "none"}
        )
        self._check = button(context, text("Check and estimate"), self._ask_estimate, icon="check")
        self._save = button(context, text("Save"), lambda: self._go(run=False), icon="save")
        self._run = button(
            context,
            text("Run experiment"),
            lambda: self._go(run=True),
            icon="play",
            kind="primary",
        )
        self._code = CodeBox(context, self._as_code)
        self.widget = column(
            title(text("New experiment"), place.ref),
            self._name.widget,
            self._details,
            title(text("Data and model")),
            self._dataset.widget,
            self._model.widget,
            title(text("Training")),
            self._file.widget,
            self._settings.widget,
            self._wrong,
            row(self._check, self._save, self._run),
            self._facts,
            self._picture,
            self._code.widget,
        )
        self._made = True
        draft = context.drafts.pop(self._key, None)
        if draft is not None:
            self._restore(draft)
        elif place.more:
            self._clone(place.more)
        self._changed()

    def close(self) -> None:
        """Keep what was typed: the language may have been switched."""
        self._context.drafts[self._key] = {
            "name": self._name.value,
            "details": self._details.value,
            "settings": self._settings.draft(),
            "model": self._model.choice.value,
            "dataset": self._dataset.choice.value,
            "others": list(self._dataset.others.value),
            "path": self._dataset.path.value,
            "files": [one.value for one in self._uploaders()],
        }

    def _uploaders(self) -> list[Any]:
        return [self._file.file, self._model.file, self._dataset.file, self._dataset.source]

    def _restore(self, draft: dict[str, Any]) -> None:
        for widget, value in zip(self._uploaders(), draft["files"], strict=True):
            if value:
                widget.value = value
        if draft["path"]:
            self._dataset.path.value = draft["path"]
        self._name.inside.value, self._details.value = draft["name"], draft["details"]
        self._choose(draft["model"], draft["dataset"])
        self._dataset.others.value = draft["others"]
        self._settings.restore(draft["settings"])

    def _clone(self, ref: str) -> None:
        experiment = self._context.catalog.experiment(ref)
        words = self._context.text("{name} (copy)", name=experiment.name)
        self._name.inside.value = words
        self._details.value = experiment.details
        self._choose(experiment.model, experiment.dataset)
        known = {option[1] for option in self._dataset.others.options}
        self._dataset.others.value = [each for each in experiment.more_datasets if each in known]
        self._settings.fill(experiment.settings)

    def _choose(self, model: str, dataset: str | None) -> None:
        for widget, value in ((self._model.choice, model), (self._dataset.choice, dataset)):
            known = [option[1] for option in widget.options]
            if value is not None and value not in known:  # an older version, or put away
                widget.options = [*widget.options, (value, value)]
            if value is not None:
                widget.value = value

    def _fill(self, values: dict[str, Any]) -> None:
        self._settings.fill(values)
        self._changed()

    def _check_name(self, name: str) -> None:
        check_name(name)

    def _changed(self) -> None:
        """Something was typed: an estimate of what was there before is none any more."""
        if not self._made:
            return
        self._settings.columns(self._dataset.columns)
        self._facts.value = ""
        self._picture.layout.display = "none"
        self._say("")
        self._code.refresh()

    def _say(self, sentence: str) -> None:
        self._wrong.value = escape(sentence)
        self._wrong.layout.display = "" if sentence else "none"

    # --- check, save, run -------------------------------------------------------------------

    def _gather(self) -> tuple[list[DatasetVersion], ModelVersion, dict[str, Any]] | None:
        """Return what was filled in; says what is wrong, and returns None, where it is."""
        try:
            settings = self._settings.values()
            data = [self._dataset.version(), *self._dataset.more()]
            return data, self._model.version(), settings
        except FlautimError as error:
            self._say(self._context.text.sentence(error))
            return None

    def _busy(self, words: str) -> None:
        for each in (self._check, self._save, self._run):
            each.disabled = bool(words)
        self._facts.value = f"<span class='lab-faint' role='status'>{escape(words)}</span>"

    def _ask_estimate(self) -> None:
        gathered = self._gather()
        if gathered is None:
            return
        self._busy(self._context.text("The experiment is being checked…"))
        data, net, settings = gathered
        rows = self._rows(data, net, settings)
        self._in_background(
            lambda: check_apart(data, net, settings, rows=rows),
            lambda found: self._show_estimate(found, rows),
        )

    def _rows(self, data: list[DatasetVersion], net: ModelVersion, settings: dict[str, Any]) -> str:
        """Return on which rows an experiment is tried out: real ones once all are granted."""
        hash_of_code = code_of(net, settings, data).hash
        home = self._project.partition("/")[0]
        refs = [each.ref.partition("@")[0] for each in data if each.number]  # not a new one
        granted = all(
            self._context.catalog.granted(ref, self._project, code=hash_of_code)
            for ref in refs
            if ref.partition("/")[0] != home
        )
        return REAL if granted else MADE_UP

    def _show_estimate(self, found: Estimate, tried_on: str) -> None:
        from flautim_lab.plots import shown_size, to_png
        from flautim_lab.plots.partition import plot_partition

        text = self._context.text
        rounds = int(self._settings.values().get("rounds", 10))
        whole = found.seconds_per_round * rounds
        facts = [
            text.count("{n} parameter", "{n} parameters", found.parameters),
            text.count("{n} row", "{n} rows", found.rows),
            text.count("{n} client", "{n} clients", found.clients),
            text(
                "about {seconds} s of training a round on one core, {time} in all",
                seconds=f"{found.seconds_per_round:.2g}",
                time=duration(whole) if whole >= 1 else text("less than a second"),
            ),
            text("about {n} MiB in each process", n=f"{found.memory_bytes / 2**20:.0f}"),
        ]
        self._busy("")
        self._facts.value = escape(" · ".join(facts))
        if tried_on == MADE_UP:
            made_up = text("Tried on made-up rows: the data are not granted to this code yet")
            self._facts.value = f"<div>{escape(made_up)}</div>{self._facts.value}"
        figure = plot_partition(found.held, found.classes)
        self._picture.value = to_png(figure)
        self._picture.layout.width = f"{shown_size(figure)[0]}px"
        self._picture.layout.display = ""
        if found.clients > SHOWN_CLIENTS:
            first = text("; the first {n} clients are drawn", n=SHOWN_CLIENTS)
            self._facts.value += escape(first)

    def _go(self, *, run: bool) -> None:
        """Check, then keep everything in the catalog, and run it: nothing is kept before."""
        if not self._name.check():
            self._say(self._name.wrong)  # the field may be out of sight from here
            return
        gathered = self._gather()
        if gathered is None:
            return
        text = self._context.text
        self._busy(text("The experiment is being checked and started…"))
        data, net, settings = gathered
        name, details = self._name.value, self._details.value
        upload = self._file.upload()
        source = upload.text() if upload else ""

        rows = self._rows(data, net, settings)
        first, *more = data

        def work() -> str:
            check_apart(data, net, settings, name, rows=rows)
            saved = self._context.catalog.save_experiment(
                self._project,
                name,
                model=self._model.save(net),
                dataset=self._dataset.save(first),
                more_datasets=[each.ref for each in more],
                settings=settings,
                details=details,
                source=source,
            )
            return start_apart(saved.ref) if run and rows == REAL else saved.ref

        def then(made: str) -> None:
            if rows == MADE_UP:
                self._context.go(Place("project", self._project, "datasets"))
                said = text("{name} was saved; ask for its data here before it runs", name=name)
            elif run:
                self._context.go(Place("run", made, more=self._project))
                said = ""
            else:
                self._context.go(Place("project", self._project))
                said = text("{name} was saved", name=name)
            self._context.drafts.pop(self._key, None)  # closing this screen kept one
            if said:
                self._context.say(said, "done")

        self._in_background(work, then)

    def _in_background(self, work: Any, then: Any) -> None:
        """Do work in a thread; its error is said beside the buttons, and nothing is lost."""

        def safely() -> Any:
            try:
                return work()
            except FlautimError as error:
                return error

        def after(found: Any) -> None:
            self._busy("")
            if isinstance(found, FlautimError):
                self._say(self._context.text.sentence(found))
            else:
                then(found)

        self._context.in_background(safely, after)

    def _as_code(self) -> str:
        upload = self._file.upload()
        saving_data, dataset = self._dataset.as_code()
        saving_model, model = self._model.as_code()
        return code.experiment_cell(
            self._project,
            self._name.value,
            model=model,
            dataset=dataset,
            more_datasets=[each for each in self._dataset.others.value if each != dataset],
            settings=self._settings.values(),
            details=self._details.value,
            settings_file=upload.name if upload else "",
            before=[*saving_data, *saving_model],
        )
