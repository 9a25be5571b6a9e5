"""Commands that execute notebooks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flautim_lab.cli.facts import at_the_end, rounds_of, with_final
from flautim_lab.cli.printing import INTERRUPTED_BY_USER, as_json, print_json, shortened, table
from flautim_lab.names import count, duration

if TYPE_CHECKING:
    from flautim_lab.runners.notebook import CellProgress


@click.command("run")
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option(
    "-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE",
    help="A value for a name in the cell tagged 'parameters'; may be given again for others.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="A file (.ipynb) or a folder for the executed notebook.  [default: NAME-executed.ipynb]",
)  # fmt: skip
@as_json
def run_notebook(
    notebook: Path, parameters: tuple[tuple[str, str], ...], output: Path | None, as_json: bool
) -> None:
    """Execute a notebook from top to bottom and show the runs it made.

    The notebook itself is not changed. It runs in its own folder.
    """
    values = dict(parameters)
    if len(values) < len(parameters):
        names = [name for name, _ in parameters]
        twice = next(name for name in names if names.count(name) > 1)
        raise click.UsageError(f"the parameter {twice!r} is given twice; give it once")
    from flautim_lab.runners.notebook import execute_notebook

    target = output or Path(f"{notebook.stem}-executed.ipynb")
    shown = sys.stderr.isatty()
    try:
        done = execute_notebook(notebook, target, values, progress=_show_cell if shown else None)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; the outputs up to here are in {target}", err=True)
        sys.exit(INTERRUPTED_BY_USER)
    finally:
        if shown:
            click.echo(err=True)
    from flautim_lab.records.store import Records

    records = Records.default()
    facts = [with_final(records, records.run(run_id)) for run_id in done.runs]
    if as_json:
        print_json({"notebook": str(done.path), "seconds": done.seconds, "runs": facts})
        return
    click.echo(f"{done.path}: done in {duration(done.seconds)}, {count(len(facts), 'run')}.")
    if facts:
        rows = [(f["id"], f["status"], rounds_of(f), at_the_end(f)) for f in facts]
        click.echo(table(("RUN", "STATUS", "ROUNDS", "AT THE END"), rows))


def _show_cell(cell: CellProgress) -> None:
    text = f"cell {cell.number} of {cell.total}: {cell.line}"
    run = cell.run
    end = f"  [{run.name}: round {run.round}/{run.rounds}]" if run is not None else ""
    end = shortened(end, 50)
    click.echo(f"\r\x1b[2K{shortened(text, 78 - len(end))}{end}", err=True, nl=False)
