"""The three files of the form: a CSV with its Dataset class, a model, the hyperparameters.

What was uploaded is parsed, never imported: it runs when it is checked or trained, in a process of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.hyperparameters import SUFFIXES, read_hyperparameters
from flautim_lab.catalog.interface import Catalog
from flautim_lab.catalog.registering import register_dataset, schema_of
from flautim_lab.catalog.sources import classes_in
from flautim_lab.catalog.things import DatasetVersion, ModelVersion
from flautim_lab.errors import CatalogError, FlautimError
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.context import Context
from flautim_lab.jupyter.panel.parts import WIDE, column, html, row, text_input
from flautim_lab.jupyter.panel.uploads import (
    MOST_SOURCE_BYTES,
    MOST_TABLE_BYTES,
    Upload,
    keep_table,
    uploaded,
    uploader,
)

NEW = ""  # in a dropdown: what is uploaded
TABLES = (".csv", ".tsv", ".txt")


class ModelFile:
    """A model of the project, or a new one from a file."""

    def __init__(self, context: Context, project: str, changed: Callable[[], Any]) -> None:
        text = context.text
        self._context = context
        self._project = project
        self._changed = changed
        found = context.catalog.models(project, per_page=100).items
        self.choice = widgets.Dropdown(
            options=[
                (text("upload a file"), NEW),
                *((f"{one.name} ({one.ref})", one.ref) for one in found),
            ],
            value=found[0].ref if found else NEW,
            description=text("Model"),
            style=WIDE,
        )
        self.file = uploader(text, text("Model (.py)"), (".py",))
        self.class_name = widgets.Dropdown(
            options=[], description=text("Class"), style=WIDE, layout={"display": "none"}
        )
        self._said = html("", "lab-wrong")
        self._said.layout.display = "none"
        self._file_name = html("", "lab-faint")
        self.widget = column(
            row(self.choice, self.file, self._file_name, self.class_name), self._said
        )
        self.choice.observe(lambda _: changed(), "value")
        self.class_name.observe(lambda _: changed(), "value")
        self.file.observe(lambda _: context.attempt(self._look), "value")

    def _look(self) -> None:
        _say(self._said, "")
        self._file_name.value = ""
        try:
            upload = self.upload()
            if upload is not None:
                self._file_name.value = escape(upload.name)
                classes = classes_in(upload.text(), "model", upload.name)
                self.class_name.options = classes.names
                self.class_name.value = classes.preferred
                self.class_name.layout.display = "" if len(classes.names) > 1 else "none"
                self.choice.value = NEW
        except FlautimError as error:
            _say(self._said, self._context.text.sentence(error))
        self._changed()

    def upload(self) -> Upload | None:
        """Return the file, if a new one was given and is meant."""
        return uploaded(self.file, (".py",), MOST_SOURCE_BYTES)

    def version(self) -> ModelVersion:
        """Return the model, not saved yet where it is a new one.

        Raises
        ------
        CatalogError
            If there is none.
        """
        if self.choice.value != NEW:
            return self._context.catalog.model(self.choice.value)
        upload = self.upload()
        if upload is None:
            raise CatalogError(
                self._context.text("Choose a model, or upload the .py file of a new one")
            )
        source = upload.text()
        classes_in(source, "model", upload.name)
        return ModelVersion(upload.name, 0, upload.stem, source, self.class_name.value)

    def save(self, version: ModelVersion) -> str:
        """Keep it in the catalog where it is new; returns its reference."""
        if self.choice.value != NEW:
            return version.ref
        saved = self._context.catalog.save_model(
            self._project, version.name, source=version.source, class_name=version.class_name
        )
        return saved.ref

    def as_code(self) -> tuple[list[str], Any]:
        """Return the lines that keep it, and how the cell names it."""
        upload = self.upload()
        if self.choice.value != NEW or upload is None:
            return [], self.choice.value
        made = code.call(
            "catalog.save_model",
            self._project,
            upload.stem,
            source=code.Name(f"open({upload.name!r}).read()"),
            class_name=self.class_name.value,
        )
        return [f"model = {made}"], code.Name("model.ref")


class DatasetFile:
    """A dataset that the project may use, or a new one from a CSV file and its Dataset class."""

    def __init__(self, context: Context, project: str, changed: Callable[[], Any]) -> None:
        text = context.text
        self._context = context
        self._institution = project.partition("/")[0]
        self._changed = changed
        found = context.catalog.usable(project)
        known = {one.ref for one in found}
        #: Those that others published: code is written for them, and shown with the request.
        offered = [
            one
            for one in context.catalog.published(per_page=100).items
            if one.ref not in known and one.institution != self._institution
        ]
        allowed = context.catalog.me().allowed.get(self._institution, frozenset())
        self._may = "register datasets" in allowed
        ask = text("ask for it before it runs")
        options = [
            *((f"{one.name} ({one.latest.ref})", one.latest.ref) for one in found),
            *((f"{one.name} ({one.latest.ref}), {ask}", one.latest.ref) for one in offered),
        ]
        self.others = widgets.SelectMultiple(
            options=[each for each in options if not each[1].startswith(f"{self._institution}/")],
            description=text("Together with"),
            style=WIDE,
            layout={"width": "auto"},
        )
        self.others.layout.display = "" if self.others.options else "none"
        # One row would be drawn as a closed list, which looks as if one could be chosen only.
        self.others.rows = min(max(len(self.others.options), 2), 4)
        if self._may:
            options.insert(0, (text("upload a file"), NEW))
        own = [one for one in found if one.institution == self._institution] or found
        self.choice = widgets.Dropdown(
            options=options,
            value=own[0].latest.ref if own else (NEW if self._may else None),
            description=text("Dataset"),
            style=WIDE,
        )
        self.file = uploader(text, text("CSV file"), TABLES)
        self.path = text_input(text("or its path"), hint="data/trips.csv")
        self.path.layout.width = "280px"
        self.path.continuous_update = False
        self.source = uploader(text, text("Dataset class (.py)"), (".py",))
        self.target = widgets.Dropdown(
            options=[], description=text("Target"), style=WIDE, layout={"display": "none"}
        )
        self._said = html("", "lab-wrong")
        self._said.layout.display = "none"
        new = row(self.file, self.path, self.source, self.target)
        new.layout.display = "" if self._may else "none"
        self.widget = column(row(self.choice, self.others), new, self._said)
        self.columns: tuple[str, ...] = ()
        self._schema: Any = None
        self.choice.observe(lambda _: context.attempt(self._chosen), "value")
        self.target.observe(lambda _: changed(), "value")
        self.source.observe(lambda _: changed(), "value")
        self.others.observe(lambda _: changed(), "value")
        for each in (self.file, self.path):
            each.observe(lambda _: context.attempt(self._look), "value")
        self._chosen()

    def place(self) -> Path | None:
        """Return where the rows of a new dataset are."""
        upload = uploaded(self.file, TABLES, MOST_TABLE_BYTES)
        if upload is not None:
            return keep_table(upload)
        return Path(self.path.value).expanduser().absolute() if self.path.value else None

    def name(self) -> str:
        """Return what a new dataset is called."""
        upload = uploaded(self.file, TABLES, MOST_TABLE_BYTES)
        return upload.stem if upload else Path(self.path.value).stem

    def _chosen(self) -> None:
        if self.choice.value:
            version = self._context.catalog.dataset(self.choice.value).latest
            self.columns = tuple(column.name for column in version.columns)
        self._changed()

    def _look(self) -> None:
        """Read the columns of a file that was given, beside the kernel's own work."""
        _say(self._said, "")
        self._schema = None
        try:
            path = self.place()
        except FlautimError as error:
            _say(self._said, self._context.text.sentence(error))
            return
        if path is None:
            return
        self.choice.value = NEW

        def work() -> Any:
            try:
                return schema_of(path)
            except FlautimError as error:
                return error

        self._context.in_background(work, self._read)

    def _read(self, found: Any) -> None:
        if isinstance(found, FlautimError):
            _say(self._said, self._context.text.sentence(found))
            return
        self._schema = found
        self.columns = found.names
        self.target.options = found.names
        self.target.value = found.names[-1]
        self.target.layout.display = ""
        self._changed()

    def _source(self) -> tuple[str, str]:
        """Return the source of the Dataset class and the class's name, if there is one."""
        upload = uploaded(self.source, (".py",), MOST_SOURCE_BYTES)
        if upload is None:
            return "", ""
        source = upload.text()
        return source, classes_in(source, "dataset", upload.name).preferred

    def version(self) -> DatasetVersion:
        """Return the dataset, not registered yet where it is a new one.

        Raises
        ------
        CatalogError
            If there is none.
        """
        if self.choice.value:
            return self._context.catalog.dataset(self.choice.value).latest
        path = self.place()
        if path is None or self._schema is None:
            raise CatalogError(
                self._context.text("Choose a dataset, or give the CSV file of a new one")
            )
        source, class_name = self._source()
        schema = self._schema
        return DatasetVersion(
            self.name(),
            0,
            schema.columns,
            self.target.value,
            schema.rows,
            schema.sha256,
            str(path),
            source,
            class_name,
        )

    def more(self) -> list[DatasetVersion]:
        """Return those of further institutions that are trained on, too."""
        refs = [ref for ref in self.others.value if ref != self.choice.value]
        return [self._context.catalog.dataset(ref).latest for ref in refs]

    def save(self, version: DatasetVersion) -> str:
        """Register it where it is new; returns its reference."""
        if self.choice.value:
            return version.ref
        saved = register_dataset(
            self._institution,
            version.path,
            target=version.target,
            name=version.ref,
            source=version.source,
            class_name=version.class_name,
            catalog=self._catalog,
        )
        return saved.ref

    @property
    def _catalog(self) -> Catalog:
        return self._context.catalog

    def as_code(self) -> tuple[list[str], Any]:
        """Return the lines that register it, and how the cell names it."""
        if self.choice.value:
            return [], self.choice.value
        upload = uploaded(self.source, (".py",), MOST_SOURCE_BYTES)
        more = {"source": code.Name(f"open({upload.name!r}).read()")} if upload else {}
        made = code.call(
            "lab.register_dataset",
            self._institution,
            str(self.place() or ""),
            target=self.target.value,
            name=self.name(),
            **more,
        )
        return [f"dataset = {made}"], code.Name("dataset.ref")


class HyperparameterFile:
    """A file that fills the fields below it."""

    def __init__(self, context: Context, fill: Callable[[dict[str, Any]], Any]) -> None:
        text = context.text
        self._context = context
        self._fill = fill
        self.file = uploader(text, text("Hyperparameters (.py, .toml, .yaml, .json)"), SUFFIXES)
        self._said = html("")
        self._read = False
        self.widget = column(row(self.file), self._said)
        self.file.observe(lambda _: context.attempt(self._look), "value")

    def upload(self) -> Upload | None:
        """Return the file, if one was given and could be read: one that was refused is none."""
        return uploaded(self.file, SUFFIXES, MOST_SOURCE_BYTES) if self._read else None

    def _look(self) -> None:
        text = self._context.text
        self._read = False
        self._said.value = ""
        try:
            upload = uploaded(self.file, SUFFIXES, MOST_SOURCE_BYTES)
            if upload is None:
                return
            found = read_hyperparameters(upload.name, upload.text())
        except FlautimError as error:
            self._said.value = f"<div class='lab-wrong'>{escape(text.sentence(error))}</div>"
            return
        self._read = True
        self._fill(found)
        words = text("{name} set {settings}", name=upload.name, settings=_listed(tuple(found)))
        self._said.value = f"<span class='lab-faint'>{escape(words)}</span>"


def _say(widget: widgets.HTML, sentence: str) -> None:
    widget.value = escape(sentence)
    widget.layout.display = "" if sentence else "none"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
