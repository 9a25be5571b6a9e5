"""The Python that does what a form does, as a cell that can be copied into the notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LAB = "import flautim_lab as lab"
CATALOG = "catalog = lab.open_catalog()"
WIDTH = 88


@dataclass(frozen=True)
class Name:
    """A variable of the cell, in place of a value."""

    name: str

    def __repr__(self) -> str:
        return self.name


def call(function: str, *values: Any, **named: Any) -> str:
    """Return a call as it is typed; what is too wide goes on a line each.

    >>> call("catalog.add_project", "ufmg", "Vision", description="Cameras")
    "catalog.add_project('ufmg', 'Vision', description='Cameras')"
    """
    given = [*map(repr, values), *(f"{name}={value!r}" for name, value in named.items())]
    line = f"{function}({', '.join(given)})"
    if len(line) <= WIDTH:
        return line
    wide = [*map(_wide, values), *(f"{name}={_wide(value)}" for name, value in named.items())]
    return "\n".join([f"{function}(", *(f"    {one}," for one in wide), ")"])


def _wide(value: Any) -> str:
    """Return a value as it is typed; a large dict takes a line for each of its entries."""
    if isinstance(value, dict) and len(repr(value)) > WIDTH - 24:
        entries = "".join(f"        {key!r}: {part!r},\n" for key, part in value.items())
        return f"{{\n{entries}    }}"
    return repr(value)


def cell(*lines: str, catalog: bool = True) -> str:
    """Return lines as a cell that runs on its own."""
    return "\n".join([LAB, *([CATALOG] if catalog else []), "", *lines])


def written(**named: Any) -> dict[str, Any]:
    """Return what was filled in: empty fields are left out of a call."""
    return {name: value for name, value in named.items() if value not in ("", b"", None, False)}


def experiment_cell(
    project: str,
    name: str,
    *,
    model: str,
    dataset: str,
    settings: Mapping[str, Any],
    more_datasets: Sequence[str] = (),
    details: str = "",
    settings_file: str = "",
    before: Sequence[str] = (),
    run: bool = True,
) -> str:
    """Return the cell that saves an experiment, and runs it.

    Parameters
    ----------
    settings_file : str, optional
        Name of the uploaded hyperparameters, which are kept beside what came of them.
    before : sequence of str
        What comes first: uploaded files, kept in the catalog.
    """
    saved = call(
        "catalog.save_experiment",
        project,
        name,
        **written(details=details),
        model=model,
        dataset=dataset,
        **({"more_datasets": list(more_datasets)} if more_datasets else {}),
        settings=dict(settings),
        **({"source": Name(f"open({settings_file!r}).read()")} if settings_file else {}),
    )
    lines = [*before, f"experiment = {saved}"]
    if run:
        lines += ["run = lab.run_saved(experiment.ref)", "run"]
    return cell(*lines)
