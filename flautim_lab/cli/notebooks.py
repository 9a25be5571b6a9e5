"""Commands that execute notebooks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from flautim_lab.cli.facts import at_the_end, rounds_of, with_final
from flautim_lab.cli.printing import INTERRUPTED_BY_USER, as_json, print_json, shortened, table
from flautim_lab.names import count, duration

if TYPE_CHECKING:
    from flautim_lab.runners.notebook import CellProgress


Value = TypeVar("Value")

parameters = click.option(
    "-p", "--parameter", "parameters", nargs=2, multiple=True, metavar="NAME VALUE",
    help="A value for a name in the cell tagged 'parameters'; may be given again for others.",
)  # fmt: skip


@click.command("run")
@click.argument("notebook", type=click.Path(path_type=Path))
@parameters
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
    values = _once(parameters)
    from flautim_lab.runners.stamped import execute_stamped

    target = output or Path(f"{notebook.stem}-executed.ipynb")
    shown = sys.stderr.isatty()
    try:
        done = execute_stamped(notebook, target, values, progress=_show_cell if shown else None)
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


@click.command("rerun")
@click.argument("notebook", type=click.Path(path_type=Path))
@parameters
@click.option(
    "-g", "--grid", multiple=True, metavar="NAME=A,B,C",
    help="Values to try, each with each of the other options; may be given again.",
)  # fmt: skip
@click.option(
    "-z", "--zip", "zipped", multiple=True, metavar="NAME=A,B,C",
    help="Values that go together: the first of each --zip, then the second of each, and so on.",
)  # fmt: skip
@click.option(
    "--points", type=click.Path(path_type=Path), metavar="FILE",
    help="A CSV file with a row, or a YAML or JSON file with a mapping, for each point.",
)  # fmt: skip
@click.option(
    "-s", "--seeds", type=click.IntRange(1), metavar="N",
    help="So many values for 'seed': that of the notebook, and those after it.",
)  # fmt: skip
@click.option(
    "-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="How many at once; they share the cores.",
)  # fmt: skip
@click.option(
    "-o", "--output", "--output-dir", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where executed notebooks and the summary go.  [default: NAME-rerun]",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
    help="The longest that one point may take.",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(0), default=0, show_default=True, metavar="N",
    help="How often a point that does not finish is tried again.",
)  # fmt: skip
@click.option("--metric", help="Sort the table by it.  [default: validation_accuracy]")
@click.option(
    "--on", default="local", show_default=True, metavar="local|cluster",
    help="On this machine, or each point as a pod in the namespace of your kubeconfig.",
)  # fmt: skip
@as_json
def rerun_notebook(
    notebook: Path,
    parameters: tuple[tuple[str, str], ...],
    grid: tuple[str, ...],
    zipped: tuple[str, ...],
    points: Path | None,
    seeds: int | None,
    jobs: int,
    output: Path | None,
    timeout: float | None,
    retries: int,
    metric: str | None,
    on: str,
    as_json: bool,
) -> None:
    """Execute a notebook at many points: a grid of parameters, several seeds.

    A point is one execution, with values for names in the cell tagged 'parameters'. The options
    combine: --grid lr=0.1,0.01 --grid strategy=FedAvg,FedProx --seeds 3 makes 12 points.

    Started again, it does what is missing: points that failed or were cut off, and those whose
    code, data files or packages have changed. The exit status is 1 if a point did not finish.

    \b
    FOLDER/points/*.ipynb   the executed notebooks, those that failed too
    FOLDER/summary.csv      a row a point: parameters, metrics, status, error
    FOLDER/summary.ipynb    tables, and curves with their spread over seeds
    """  # noqa: D301 - click's mark for lines to be left as they are
    from flautim_lab.runners.rerun.batch import column
    from flautim_lab.runners.rerun.points import split_values
    from flautim_lab.runners.rerun.start import rerun

    folder = output or Path(f"{notebook.stem}-rerun")
    try:
        batch = rerun(
            notebook,
            parameters=_once(parameters),
            grid=_once([split_values(text) for text in grid]),
            zip=_once([split_values(text) for text in zipped]),
            points=points,
            seeds=seeds,
            jobs=jobs,
            output=folder,
            timeout=timeout,
            retries=retries,
            on=on,
        )
    except KeyboardInterrupt:
        click.echo(
            f"\nstopped; what is done is in {folder}, and the same command does the rest", err=True
        )
        sys.exit(INTERRUPTED_BY_USER)
    rows = batch.rows(metric)
    if as_json:
        print_json({"folder": str(batch.path), "points": rows})
    else:
        click.echo(batch)
        chosen = batch.sorted_by(metric)
        head = [*(column(name) for name in batch.names), *([chosen] if chosen else []), "status"]
        lines = [[_shown(row[name]) for name in head] for row in rows]
        click.echo(table([name.upper() for name in head], lines))
    if not batch.finished:
        sys.exit(1)


@click.command("verify")
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option(
    "--source", type=click.Path(path_type=Path), metavar="NOTEBOOK",
    help="The notebook to execute.  [default: the one of that name near the executed one, or here]",
)  # fmt: skip
@click.option(
    "--tolerance", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
    metavar="PART", help="By which part of itself a number may differ, such as 1e-5.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Keep the notebook as it was executed now: a file (.ipynb), or a folder that exists.",
)  # fmt: skip
@as_json
def verify_notebook(
    notebook: Path, source: Path | None, tolerance: float, output: Path | None, as_json: bool
) -> None:
    """Execute a notebook again, and say whether its numbers are the same.

    NOTEBOOK is an executed one, as run and rerun leave it. The exit status is 1 where the numbers
    differ; the first thing that has changed is named: a parameter, a line of code, of data, a
    version. The runs that it makes stay in the records, and are named at the end.
    """
    from flautim_lab.runners.verify import verify

    shown = sys.stderr.isatty()
    progress = _show_cell if shown else None
    try:
        found = verify(
            notebook, source=source, tolerance=tolerance, output=output, progress=progress
        )
    except KeyboardInterrupt:
        click.echo("\nstopped; nothing is verified", err=True)
        sys.exit(INTERRUPTED_BY_USER)
    finally:
        if shown:
            click.echo(err=True)
    if as_json:
        print_json(
            {
                "same": found.same,
                "compared": found.compared,
                "changed": list(found.changed),
                "differences": list(found.differences),
                "notebook": str(found.notebook),
                "source": str(found.source),
                "runs": list(found.runs),
                "kept": str(found.kept) if found.kept else None,
            }
        )
    else:
        click.echo(repr(found))
    if not found.same:
        sys.exit(1)


def _once(pairs: Sequence[tuple[str, Value]]) -> dict[str, Value]:
    """Return names and values as a mapping; a name may be there once."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.UsageError(f"the parameter {twice[0]!r} is given twice; give it once")
    return dict(pairs)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _show_cell(cell: CellProgress) -> None:
    text = f"cell {cell.number} of {cell.total}: {cell.line}"
    run = cell.run
    end = f"  [{run.name}: round {run.round}/{run.rounds}]" if run is not None else ""
    end = shortened(end, 50)
    click.echo(f"\r\x1b[2K{shortened(text, 78 - len(end))}{end}", err=True, nl=False)
