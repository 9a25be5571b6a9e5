"""Commands for what is done with runs after they ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flautim_lab.cli.facts import find_run, the_run
from flautim_lab.cli.printing import as_json, print_json

if TYPE_CHECKING:
    from flautim_lab.runners.run import Run

DOWNLOADS = ("model", "metrics", "log", "plot", "experiment")
PARTS = ("metrics", "runs")

some_runs = click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
the_metric = click.option("--metric", help="Such as accuracy or mae.  [default: loss]")


@click.command("download")
@the_run
@click.option("--what", type=click.Choice(DOWNLOADS), required=True, help="Which part.")
@click.option(
    "--to", type=str, metavar="PATH",
    help="A file, which must not exist yet, or a folder (one that exists, or any name that ends in "
    "a slash).  [default: here]",
)  # fmt: skip
def download(run_id: str, what: str, to: str | None) -> None:
    """Write a part of a run to a file, and print where it is."""
    click.echo(find_run(run_id).download(what, to))


@click.command("plot")
@some_runs
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True,
    help="A file that ends in .png, .svg or .pdf.",
)  # fmt: skip
@the_metric
def plot(run_ids: Sequence[str], output: Path, metric: str | None) -> None:
    """Draw a metric of one run, or of several to compare them, over the rounds.

    RUN may also be the folder of a batch, or an executed notebook, for all runs in it.
    """
    _check_picture(output)
    from flautim_lab.runners.several import given

    _save(given(run_ids, "plot"), metric, output)
    click.echo(output)


@click.command("compare")
@some_runs
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Also draw the curves, in a file that ends in .png, .svg or .pdf.",
)  # fmt: skip
@the_metric
@click.option("--code", is_flag=True, help="Also print the lines of source that differ.")
@as_json
def compare(
    run_ids: Sequence[str], output: Path | None, metric: str | None, code: bool, as_json: bool
) -> None:
    """Tell in what runs differ: settings, data, code, versions, and what came of them.

    RUN may also be the folder of a batch (flautim-lab rerun), or an executed notebook, for all runs
    in it.
    """
    if output is not None:
        _check_picture(output)
    from flautim_lab.runners.several import differences

    found = differences(run_ids)
    if output is not None:
        _save(found.runs, metric, output)
    elif metric is not None:
        found.check_metric(metric)
    if as_json:
        print_json(
            {
                "runs": [run.id for run in found.runs],
                "differences": [
                    {"kind": one.kind, "name": one.name, "values": list(one.values)}
                    for one in found.found
                ],
                "results": found.results.to_dict(),
                "code": found.code,
            }
        )
        return
    click.echo(repr(found))
    if code:
        click.echo(f"\n{found.code_in_words}", nl=False)
    if output is not None:
        click.echo(f"\n{output}")


@click.command("export")
@some_runs
@click.option(
    "--to", required=True, metavar="TO",
    help="A file that ends in .csv or .parquet, or an MLflow store such as sqlite:///mlflow.db.",
)  # fmt: skip
@click.option(
    "--what", type=click.Choice(PARTS), default=PARTS[0], show_default=True,
    help="What a table holds: all that was measured, or a line per run.",
)  # fmt: skip
def export_runs(run_ids: Sequence[str], to: str, what: str) -> None:
    """Write runs in a form that other tools read: CSV, Parquet, MLflow.

    RUN may also be the folder of a batch (flautim-lab rerun), or an executed notebook, for all runs
    in it. What is exported twice is there once. The names of clients are exported, too.
    """
    from flautim_lab.runners.export import export
    from flautim_lab.runners.several import given

    click.echo(export(given(run_ids, "export"), to, what))


def _check_picture(output: Path) -> None:
    from flautim_lab.errors import UsageError
    from flautim_lab.plots.files import check_picture

    try:
        check_picture(output)
    except UsageError as error:
        raise click.UsageError(str(error)) from error


def _save(runs: Sequence[Run], metric: str | None, output: Path) -> None:
    from flautim_lab.plots.files import save_picture

    first, *others = runs
    save_picture(first.plot(metric or "loss", compare=others), output)
