"""Commands for what is done with runs after they ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from flautim_lab.cli.facts import find_run, the_run

DOWNLOADS = ("model", "metrics", "log", "plot", "experiment")
PICTURES = (".png", ".svg", ".pdf")


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
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True,
    help="A file that ends in .png, .svg or .pdf.",
)  # fmt: skip
@click.option("--metric", default="loss", show_default=True, help="Such as accuracy or mae.")
def plot(run_ids: Sequence[str], output: Path, metric: str) -> None:
    """Draw a metric of one run, or of several to compare them, over the rounds."""
    suffix = output.suffix.lower()
    if suffix not in PICTURES:
        raise click.UsageError(
            f"a plot is not written as {output.name!r}; end its name in {' or '.join(PICTURES)}"
        )
    from flautim_lab.plots import to_png

    first, *others = [find_run(run_id) for run_id in run_ids]
    figure = first.plot(metric, compare=others)
    try:
        if suffix == ".png":
            output.write_bytes(to_png(figure))
        else:
            figure.savefig(output)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from error
    click.echo(output)
