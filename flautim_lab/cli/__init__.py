"""The command line, ``flautim-lab``: parse, call, print.

What a script wants is printed as JSON with ``--json``, alone on the standard output. Errors are
one sentence on the error stream: exit status 1 for what went wrong, 2 for words that the command
line does not know. Each command imports what it needs, so that ``--help`` answers at once.

A file per group of commands; ``facts.py`` and ``printing.py`` are what they share.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from flautim_lab.cli.administration import backup, migrate, restore
from flautim_lab.cli.after import compare, download, export_runs, plot
from flautim_lab.cli.doctor import diagnose
from flautim_lab.cli.notebooks import rerun_notebook, run_notebook, verify_notebook
from flautim_lab.cli.runs import list_runs, scale_run, show_logs, show_run, stop_run
from flautim_lab.errors import FlautimError
from flautim_lab.names import unknown


class Commands(click.Group):
    """The commands; a wrong one gets a suggestion, and our errors are shown as one sentence."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or say which one was probably meant."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(unknown(args[0], self.list_commands(ctx), "command"))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command that was asked for."""
        try:
            return super().invoke(ctx)
        except FlautimError as error:
            raise click.ClickException(str(error)) from error


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        try:
            click.echo(f"flautim-lab {version('flautim-lab')}")
        except PackageNotFoundError:
            click.echo("flautim-lab (not installed: run from its source)")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version.",
)  # fmt: skip
def main() -> None:
    """Run federated-learning notebooks, and look at the runs they made.

    RUN is the id of a run, the beginning of it, a part of its name, or "last".
    """


for _command in (
    run_notebook,
    rerun_notebook,
    verify_notebook,
    list_runs,
    show_run,
    show_logs,
    stop_run,
    scale_run,
    download,
    plot,
    compare,
    export_runs,
    diagnose,
    migrate,
    backup,
    restore,
):
    main.add_command(_command)
