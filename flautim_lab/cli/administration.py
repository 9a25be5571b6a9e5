"""The commands for who runs a hub: the tables of its databases, backups of them."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("migrate")
@click.option(
    "--wait", "wait_seconds", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
    help="How long to wait for a database that cannot be reached yet.",
)  # fmt: skip
def migrate(wait_seconds: float) -> None:
    """Bring the tables of catalog and records to the form that this version needs.

    It may be done again, and by several at once.
    """
    from flautim_lab.runners import databases

    def say(sentence: str) -> None:
        click.echo(sentence, err=True)

    for sentence in databases.migrate(wait_seconds, say):
        click.echo(sentence)


@click.command("backup")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N",
    help="Keep the newest N in the folder TARGET, and remove older ones.",
)  # fmt: skip
def backup(target: Path, keep: int | None) -> None:
    """Write catalog and records to a file, while they are in use.

    TARGET is a file that is not there yet, or a folder, in which it is named by the time. The
    folders of runs (weights, logs) are not in it.
    """
    from flautim_lab.runners.backup import back_up, summary

    path, rows = back_up(target, keep=keep)
    click.echo(f"{path}: {summary(rows)}")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only look whether FILE is whole.")
@click.option("--replace", is_flag=True, help="Remove what is there before; it is lost.")
def restore(file: Path, check: bool, replace: bool) -> None:
    """Put the rows of a backup into catalog and records: all of them, or none.

    Both must be empty, and nobody should use them meanwhile: stop the service first.
    """
    from flautim_lab.runners import backup

    if check:
        click.echo(f"{file} is whole: {backup.summary(backup.check(file))}")
        return
    click.echo(f"restored: {backup.summary(backup.restore(file, replace=replace))}")
