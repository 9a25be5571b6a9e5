"""The part of the form that says how is trained: strategy, clients, partition, rounds, runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from flautim_lab.experiment import settings as checks
from flautim_lab.experiment.partition import Partition
from flautim_lab.experiment.strategies import INNER, STRATEGIES, check_argument
from flautim_lab.jupyter.panel.arguments import as_typed, hint, keywords, number
from flautim_lab.jupyter.panel.parts import WIDE, Field, column, fields, refill, row
from flautim_lab.jupyter.panel.text import Text
from flautim_lab.runners.launch import RUNNERS

SMALL = {"width": "220px"}
# Name, whole number or not, and what it is at first.
NUMBERS: Mapping[str, tuple[bool, str]] = {
    "clients": (True, "4"),
    "rounds": (True, "5"),
    "local_epochs": (True, "1"),
    "batch_size": (True, "32"),
    "lr": (False, "0.01"),
    "seed": (True, "0"),
    "validation": (False, "0.2"),
}
PARTITIONS: Mapping[str, Sequence[str]] = {
    "evenly": (),
    "by_label": ("alpha",),
    "by_size": ("alpha",),
    "by_column": ("name",),
}


class SettingsForm:
    """Fields of an experiment's settings, each with the check that ``lab.Experiment`` has.

    Parameters
    ----------
    text : Text
    changed : callable
        Called after each change.
    """

    def __init__(self, text: Text, changed: Callable[[], Any]) -> None:
        self._text = text
        self._changed = changed
        self._columns: tuple[str, ...] = ()
        labels = {
            "clients": text("Clients"),
            "rounds": text("Rounds"),
            "local_epochs": text("Local epochs"),
            "batch_size": text("Batch size"),
            "lr": text("Learning rate"),
            "seed": text("Seed"),
            "validation": text("Validation share"),
        }
        self._numbers = {
            name: Field(
                text,
                _small(labels[name], first),
                lambda typed, name=name: self._check_number(name, typed),  # type: ignore[misc]
                changed,
            )
            for name, (_, first) in NUMBERS.items()
        }
        self._strategy = _dropdown(text("Strategy"), list(STRATEGIES))
        self._inner = _dropdown(
            text("wraps"), [name for name, facts in STRATEGIES.items() if facts.plain_mean]
        )
        self._strategy_args: dict[str, Field] = {}
        self._strategy_box = fields()
        self._partition = _dropdown(
            text("Partition"),
            [
                (text("evenly"), "evenly"),
                (text("by label (skewed classes)"), "by_label"),
                (text("by size (unequal clients)"), "by_size"),
                (text("by a column"), "by_column"),
            ],
        )
        self._alpha = Field(text, _small("alpha", "0.5"), self._check_alpha, changed)
        self._column = widgets.Combobox(
            description=text("Column"), style=WIDE, layout=SMALL, ensure_option=False
        )
        self._optimizer = _dropdown(text("Optimizer"), list(checks.OPTIMIZERS))
        self._on = _dropdown(
            text("Run on"),
            [
                (text("this machine, in a process"), "local"),
                (text("Flower processes on this machine"), "processes"),
                (text("the Kubernetes cluster"), "cluster"),
            ],
        )
        self._model_args = Field(
            text, _wide(text("Model arguments"), "hidden=16"), keywords, changed
        )
        self._dataset_args = Field(
            text, _wide(text("Dataset arguments"), 'missing="mean"'), keywords, changed
        )
        # What a file or a clone has and no field shows: it stays.
        self._more: dict[str, Any] = {}
        more = widgets.Accordion(
            [
                column(
                    fields(*(self._numbers[n].widget for n in ("local_epochs", "batch_size"))),
                    fields(self._optimizer, self._numbers["validation"].widget),
                    row(self._numbers["seed"].widget),
                    self._model_args.widget,
                    self._dataset_args.widget,
                )
            ],
            titles=(text("More settings"),),
            selected_index=None,
        )
        self.widget = column(
            row(self._strategy, self._inner),
            self._strategy_box,
            fields(*(self._numbers[n].widget for n in ("clients", "rounds", "lr"))),
            fields(self._partition, self._alpha.widget, self._column),
            row(self._on),
            more,
        )
        for field in self._numbers.values():
            field.widget.layout.width = "auto"
        self._alpha.widget.layout.width = "auto"
        self._strategy.observe(self._show_strategy, "value")
        self._partition.observe(self._show_partition, "value")
        for each in (self._inner, self._optimizer, self._on, self._column):
            each.observe(lambda _: changed(), "value")
        self._show_strategy()
        self._show_partition()

    # --- in and out -------------------------------------------------------------------------

    def columns(self, names: Sequence[str]) -> None:
        """Offer the columns of the dataset that was chosen."""
        self._columns = tuple(names)
        self._column.options = self._columns

    def values(self) -> dict[str, Any]:
        """Return the settings, as ``lab.Experiment`` takes them; partition and ``on`` as JSON.

        Raises
        ------
        FlautimError
            For what cannot be; its field says so, too.
        """
        found: dict[str, Any] = dict(self._more)
        found["strategy"] = self._strategy.value
        if arguments := self._typed_arguments():
            found["strategy_args"] = arguments
        for name, (whole, _) in NUMBERS.items():
            typed = number(self._numbers[name].value, name, whole=whole)
            if typed is not None:
                found[name] = typed
        found["partition"] = self._partition_settings()
        if self._partition.value == "by_column":
            found.pop("clients", None)
        found["optimizer"] = self._optimizer.value
        for name, field in (
            ("model_args", self._model_args),
            ("dataset_args", self._dataset_args),
        ):
            if given := keywords(field.value):
                found[name] = given
        found["on"] = self._on.value
        return found

    def fill(self, values: Mapping[str, Any]) -> None:
        """Show settings: of a file, or of the experiment that this one is a clone of."""
        left = dict(values)
        if left.get("strategy") in STRATEGIES:
            self._strategy.value = left.pop("strategy")
        arguments = dict(left.pop("strategy_args", {}))
        if "strategy" in arguments and self._inner.layout.display != "none":
            self._inner.value = arguments.pop("strategy")
        for name, value in arguments.items():
            if name in self._strategy_args and value is not None:
                self._strategy_args[name].inside.value = str(value)
        for name in NUMBERS:
            if name in left:
                value = left.pop(name)
                self._numbers[name].inside.value = "" if value is None else str(value)
        partition = dict(left.pop("partition", {}))
        if partition.get("kind") in PARTITIONS:
            self._partition.value = partition["kind"]
            if partition.get("alpha") is not None:
                self._alpha.inside.value = str(partition["alpha"])
            if partition.get("name"):
                self._column.value = str(partition["name"])
        if left.get("optimizer") in checks.OPTIMIZERS:
            self._optimizer.value = left.pop("optimizer")
        if left.get("on") in RUNNERS:
            self._on.value = left.pop("on")
        for name, field in (
            ("model_args", self._model_args),
            ("dataset_args", self._dataset_args),
        ):
            if name in left:
                field.inside.value = as_typed(left.pop(name))
        self._more = left

    def draft(self) -> dict[str, Any]:
        """Return what stands in the fields as it was typed, right or wrong, for :meth:`restore`."""
        return {
            "inputs": [one.value for one in self._inputs()],
            "arguments": {name: field.value for name, field in self._strategy_args.items()},
            "more": self._more,
        }

    def restore(self, draft: Mapping[str, Any]) -> None:
        """Show what :meth:`draft` of such a form returned."""
        for one, value in zip(self._inputs(), draft["inputs"], strict=True):
            one.value = value
        for name, value in draft["arguments"].items():
            self._strategy_args[name].inside.value = value
        self._more = draft["more"]

    def _inputs(self) -> list[Any]:
        """Return the inputs whose number does not depend on the strategy; that one first."""
        choices = [self._strategy, self._inner, self._partition, self._column]
        fields = [*self._numbers.values(), self._alpha, self._model_args, self._dataset_args]
        return [*choices, self._optimizer, self._on, *(field.inside for field in fields)]

    # --- strategy -----------------------------------------------------------------------------

    def _show_strategy(self, _: object = None) -> None:
        """Show the arguments of the strategy that was chosen, and no others."""
        facts = STRATEGIES[self._strategy.value]
        self._inner.layout.display = "" if facts.wraps else "none"
        self._strategy_args = {
            name: Field(
                self._text,
                _small(name, "", hint(argument, self._text)),
                lambda typed, name=name: self._check_argument(name, typed),  # type: ignore[misc]
                self._changed,
            )
            for name, argument in facts.arguments.items()
        }
        for field in self._strategy_args.values():
            field.inside.layout.width = "340px"
            field.widget.layout.width = "auto"
        refill(self._strategy_box, [field.widget for field in self._strategy_args.values()])
        self._changed()

    def _typed_arguments(self) -> dict[str, Any]:
        facts = STRATEGIES[self._strategy.value]
        found: dict[str, Any] = {}
        for name, field in self._strategy_args.items():
            typed = number(field.value, name, whole=facts.arguments[name].whole)
            if typed is not None:
                found[name] = typed
        if facts.wraps:
            found[INNER[0]] = self._inner.value
        return found

    def _check_argument(self, name: str, typed: str) -> None:
        """Check one argument as the strategy's own check does, without the others."""
        argument = STRATEGIES[self._strategy.value].arguments[name]
        value = number(typed, name, whole=argument.whole)
        if value is not None:
            check_argument(self._strategy.value, name, value)

    # --- partition and numbers ----------------------------------------------------------------

    def _show_partition(self, _: object = None) -> None:
        needed = PARTITIONS[self._partition.value]
        self._alpha.widget.layout.display = "" if "alpha" in needed else "none"
        self._column.layout.display = "" if "name" in needed else "none"
        self._numbers["clients"].inside.disabled = self._partition.value == "by_column"
        self._changed()

    def _partition_settings(self) -> dict[str, Any]:
        kind = self._partition.value
        found: dict[str, Any] = {"kind": kind}
        if "alpha" in PARTITIONS[kind]:
            found["alpha"] = number(self._alpha.value, "alpha")
        if "name" in PARTITIONS[kind]:
            found["name"] = self._column.value
        return Partition.from_settings(found).settings()

    def _check_alpha(self, typed: str) -> None:
        checks.positive(number(typed, "alpha"), "alpha")

    def _check_number(self, name: str, typed: str) -> None:
        whole, _ = NUMBERS[name]
        value = number(typed, name, whole=whole)
        if value is None:
            return
        if name == "lr":
            checks.positive(value, name)
        elif name == "validation":
            checks.share(value, name)
        else:
            checks.whole(value, name, at_least=0 if name == "seed" else 1)


def _small(label: str, value: str, hint: str = "") -> widgets.Text:
    return widgets.Text(
        value=value, description=label, placeholder=hint, style=WIDE, layout=dict(SMALL)
    )


def _wide(label: str, hint: str) -> widgets.Text:
    return widgets.Text(
        description=label,
        placeholder=hint,
        style=WIDE,
        layout={"width": "100%", "max_width": "640px"},
    )


def _dropdown(label: str, options: Sequence[Any]) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=options,
        description=label,
        style=WIDE,
        layout={"width": "auto", "max_width": "100%"},
    )
