"""The datasets of an institution: schema and size, a form to register one, and its grants."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from flautim_lab.catalog.refs import read_ref
from flautim_lab.catalog.registering import Schema, register_dataset, schema_of
from flautim_lab.catalog.things import Dataset
from flautim_lab.errors import CatalogError
from flautim_lab.jupyter.panel import code
from flautim_lab.jupyter.panel.confirming import Confirmed, any_code
from flautim_lab.jupyter.panel.context import Context, Place
from flautim_lab.jupyter.panel.parts import (
    WIDE,
    CodeBox,
    PagedList,
    button,
    column,
    html,
    moment,
    refill,
    row,
    table,
    text_input,
    title,
)
from flautim_lab.jupyter.panel.requests import check_end, end_of
from flautim_lab.jupyter.panel.text import Text
from flautim_lab.jupyter.panel.uploads import (
    MOST_SOURCE_BYTES,
    MOST_TABLE_BYTES,
    keep_table,
    uploaded,
    uploader,
)

PER_PAGE = 10
MOST_COLUMNS = 30  # shown of a schema
TABLES = (".csv", ".tsv", ".txt")


class DatasetsTab:
    """Datasets by name; data owners register and grant them."""

    def __init__(self, context: Context, institution: str, allowed: Any) -> None:
        self._context = context
        self._institution = institution
        self._may = "register datasets" in allowed
        self._list = PagedList(context, self._show)
        parts: list[widgets.Widget] = [self._list.widget]
        if "grant datasets" in allowed:
            parts.append(_Grants(context, institution).widget)
        if "register datasets" in allowed:
            parts.append(RegisterForm(context, institution, self._registered).widget)
        self.widget = column(*parts)
        self._show(1)

    def _registered(self, ref: str) -> None:
        self._context.go(Place("institution", self._institution, "datasets"))
        self._context.say(self._context.text("{ref} was registered", ref=ref), "done")

    def _show(self, page: int) -> None:
        found = self._context.catalog.datasets(self._institution, page=page, per_page=PER_PAGE)
        none = self._context.text("No dataset here yet")
        self._list.set([self._item(one) for one in found.items], found, none)

    def _item(self, dataset: Dataset) -> widgets.Widget:
        text = self._context.text
        if not self._may:
            return dataset_item(text, dataset)
        words = text("Hide from others") if dataset.published else text("Show to others")
        tip = (
            text("Hide schema and size of {name} from other institutions", name=dataset.name)
            if dataset.published
            else text("Show schema and size of {name}, so that all may ask", name=dataset.name)
        )
        change = button(self._context, words, lambda: self._publish(dataset), icon="eye", tip=tip)
        return dataset_item(text, dataset, change)

    def _publish(self, dataset: Dataset) -> None:
        self._context.catalog.change_dataset(dataset.ref, published=not dataset.published)
        self._show(self._list.page)


def dataset_item(text: Text, dataset: Dataset, *more: widgets.Widget) -> widgets.Widget:
    """Return what may be known of a dataset, and the code to try it with made-up rows."""
    version = dataset.latest
    facts = " · ".join(
        [
            version.ref,
            text.count("{n} row", "{n} rows", version.rows),
            text.count("{n} column", "{n} columns", len(version.columns)),
            text("target {name}", name=version.target),
            moment(text, version.created),
            *([text("shown to all")] if dataset.published else []),
        ]
    )
    kinds = {
        "number": text("number"),
        "integer": text("whole number"),
        "boolean": text("true or false"),
        "text": text("text"),
    }
    rows = [
        [
            column.name,
            kinds.get(column.kind, column.kind),
            ", ".join(column.values[:8]) + (", ..." if len(column.values) > 8 else "")
            if column.values
            else ("" if column.low is None else f"{column.low:g} – {column.high:g}"),
            text("some missing") if column.missing else "",
        ]
        for column in version.columns[:MOST_COLUMNS]
    ]
    heads = [text("Column"), text("Kind"), text("Values"), text("Missing")]
    made = html(
        f"<div class='lab-name'>{escape(dataset.name)}</div>"
        f"<div>{escape(dataset.description)}</div><div class='lab-faint'>{escape(facts)}</div>"
        f"<details><summary>{escape(text('Schema'))}</summary>{table(heads, rows)}"
        f"<pre class='lab-code'>{escape(code.call('lab.dataset', version.ref))}</pre></details>"
    )
    box = row(made, *more)
    box.add_class("lab-item")
    return box


class RegisterForm:
    """A CSV file, by upload or by its path, becomes a dataset or a new version of one.

    Parameters
    ----------
    done : callable
        Is told the reference of what was registered.
    """

    def __init__(self, context: Context, institution: str, done: Any) -> None:
        text = context.text
        self._context = context
        self._institution = institution
        self._done = done
        self._schema: Schema | None = None
        self._table = uploader(text, text("CSV file"), TABLES)
        self._path = text_input(text("or its path"), hint="data/trips.csv")
        self._path.continuous_update = False
        self._source = uploader(text, text("Dataset class (.py), if it has one"), (".py",))
        self._name = text_input(text("Name"))
        self._target = widgets.Dropdown(
            options=[], description=text("Target"), style=WIDE, disabled=True
        )
        self._facts = html("", "lab-faint")
        self._code = CodeBox(context, self._as_code)
        self._save = button(context, text("Register"), self._register, icon="plus", kind="primary")
        self._save.disabled = True
        self.widget = column(
            title(text("Register a dataset")),
            row(self._table, self._path),
            self._facts,
            row(self._name),
            row(self._target),
            row(self._source),
            row(self._save),
            self._code.widget,
        )
        self._table.observe(lambda _: context.attempt(self._look), "value")
        self._path.observe(lambda _: context.attempt(self._look), "value")

    def place(self) -> Path | None:
        """Return where the rows are; what was uploaded is kept in the home."""
        upload = uploaded(self._table, TABLES, MOST_TABLE_BYTES)
        if upload is not None:
            return keep_table(upload)
        return Path(self._path.value).expanduser().absolute() if self._path.value else None

    def _look(self) -> None:
        """Read the schema, beside the kernel's own work."""
        path = self.place()
        self._schema = None
        self._save.disabled = self._target.disabled = True
        if path is None:
            return
        self._facts.value = escape(self._context.text("Reading {name}…", name=path.name))
        self._context.in_background(
            lambda: schema_of(path), lambda schema: self._read(path, schema)
        )

    def _read(self, path: Path, schema: Schema) -> None:
        text = self._context.text
        self._schema = schema
        self._facts.value = escape(
            f"{text.count('{n} row', '{n} rows', schema.rows)}: {', '.join(schema.names)}"
        )
        self._target.options = schema.names
        self._target.value = schema.names[-1]
        self._target.disabled = self._save.disabled = False
        if not self._name.value:
            upload = uploaded(self._table, TABLES, MOST_TABLE_BYTES)
            self._name.value = upload.stem if upload else path.stem
        self._context.say("")
        self._code.refresh()

    def _given(self) -> dict[str, Any]:
        source = uploaded(self._source, (".py",), MOST_SOURCE_BYTES)
        return {
            "target": self._target.value,
            "name": self._name.value,
            **({"source": source.text()} if source else {}),
        }

    def _register(self) -> None:
        path, text = self.place(), self._context.text
        if path is None or self._schema is None:
            raise CatalogError(text("Choose a CSV file first"))
        given = self._given()
        self._save.disabled = True
        catalog, institution = self._context.catalog, self._institution

        def work() -> str:
            try:
                made = register_dataset(institution, path, catalog=catalog, **given)
            finally:
                self._save.disabled = False
            return made.ref

        self._context.in_background(work, self._done)

    def _as_code(self) -> str:
        path = self.place()
        given = self._given()
        lines = []
        if given.pop("source", None):
            upload = uploaded(self._source, (".py",), MOST_SOURCE_BYTES)
            name = upload.name if upload else ""
            lines.append(f"source = {code.call('open', name)}.read()")
            given["source"] = code.Name("source")
        made = code.call("lab.register_dataset", self._institution, str(path or ""), **given)
        return code.cell(*lines, made, catalog=False)


class _Grants:
    """Which projects may use which dataset, until when; data owners give and end it.

    What is given here is for any code of a project: who gives it for one code reads that first,
    where its request is.
    """

    def __init__(self, context: Context, institution: str) -> None:
        text = context.text
        self._context = context
        self._institution = institution
        found = context.catalog.datasets(institution, per_page=100).items
        self._dataset = widgets.Dropdown(
            options=[(one.name, one.ref) for one in found], description=text("Dataset"), style=WIDE
        )
        self._project = text_input(text("Project"), hint="ufmg/vision")
        self._until = widgets.DatePicker(description=text("until"), style=WIDE)
        self._list = widgets.VBox(layout={"width": "100%"})
        self._code = CodeBox(context, self._as_code)
        told = text(
            "A grant given here is for any code of the project. To grant the code of one request "
            "alone, read and answer it under Data requests."
        )
        self._sure = Confirmed(
            context,
            text("Grant any code"),
            self._ask,
            text("Yes, grant any code"),
            self._give,
            icon="check",
        )
        self.widget = widgets.Accordion(
            [
                column(
                    row(self._dataset),
                    self._list,
                    html(escape(told), "lab-faint"),
                    row(self._project, self._until),
                    row(self._sure.button),
                    self._sure.widget,
                    self._code.widget,
                )
            ],
            titles=(text("Grants"),),
            selected_index=None,
        )
        self.widget.layout.display = "" if found else "none"
        self._dataset.observe(lambda _: context.attempt(self._show), "value")
        for field in (self._dataset, self._project, self._until):
            field.observe(lambda _: self._sure.close(), "value")
        if found:
            self._show()

    def _show(self) -> None:
        text = self._context.text
        items = []
        for grant in self._context.catalog.grants(dataset=self._dataset.value):
            state = text("without end")
            if grant.until:
                state = text("until {when}", when=moment(text, grant.until))
            if grant.ended:
                state = text("ended")
            what = text("any code")
            if grant.code:
                what = text("code {hash}", hash=grant.code[:12])
            by = text("by {user}", user=grant.given_by)
            words = html(table([], [[grant.project, what, by, state]]))
            end = button(
                self._context,
                text("End grant"),
                lambda number=grant.id: self._end(number),  # type: ignore[misc]
                tip=text("End the grant of {project}", project=grant.project),
            )
            end.layout.display = "none" if grant.ended else ""
            items.append(row(words, end))
        refill(self._list, items)

    def _given(self) -> dict[str, Any]:
        return code.written(until=end_of(self._until.value))

    def _ask(self) -> str:
        check_end(self._context.text, self._until.value)
        project = read_ref(self._project.value, 2)
        return any_code(self._context.text, self._dataset.value, str(project))

    def _give(self) -> None:
        self._context.catalog.give_grant(self._dataset.value, self._project.value, **self._given())
        self._show()

    def _end(self, number: int) -> None:
        self._context.catalog.end_grant(number)
        self._show()

    def _as_code(self) -> str:
        return code.cell(
            code.call(
                "catalog.give_grant", self._dataset.value, self._project.value, **self._given()
            )
        )
