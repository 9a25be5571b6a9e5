"""The command line, ``flautim-lab``: parse, call, print.

What a script wants is printed as JSON with ``--json``, alone on the standard output. Errors are
one sentence on the error stream: exit status 1 for what went wrong, 2 for words that the command
line does not know. Each command imports what it needs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flautim_lab.errors import FlautimError
from flautim_lab.names import count, duration, unknown

if TYPE_CHECKING:
    from flautim_lab.records.event import Event, RunRecord
    from flautim_lab.records.store import Records
    from flautim_lab.runners.notebook import CellProgress
    from flautim_lab.runners.run import Run

DOWNLOADS = ("model", "metrics", "log", "plot", "experiment")
PICTURES = (".png", ".svg", ".pdf")
FOLLOW_SECONDS = 0.5
SHORTEST_END = 40  # characters that "runs" leaves for how a run ended, however narrow it is
INTERRUPTED_BY_USER = 130  # a shell's own status for Ctrl-C


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


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
the_run = click.argument("run_id", metavar="RUN")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version.",
)  # fmt: skip
def main() -> None:
    """Run federated-learning notebooks, and look at the runs they made.

    RUN is the id of a run, the beginning of it, a part of its name, or "last".
    """


@main.command("run")
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
    facts = [_with_final(records, records.run(run_id)) for run_id in done.runs]
    if as_json:
        _print_json({"notebook": str(done.path), "seconds": done.seconds, "runs": facts})
        return
    click.echo(f"{done.path}: done in {duration(done.seconds)}, {count(len(facts), 'run')}.")
    if facts:
        rows = [(f["id"], f["status"], _rounds(f), _at_the_end(f)) for f in facts]
        click.echo(_table(("RUN", "STATUS", "ROUNDS", "AT THE END"), rows))


@main.command("runs")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@as_json
def list_runs(limit: int, as_json: bool) -> None:
    """List the newest runs."""
    from flautim_lab.records.store import Records

    records = Records.default()
    facts = [_with_final(records, record) for record in records.runs(limit=limit)]
    if as_json:
        _print_json(facts)
    elif not facts:
        click.echo(f"no runs yet in {records.where}")
    else:
        rows = []
        for f in facts:
            strategy = str(f["settings"].get("strategy", ""))
            rows.append((f["id"], f["status"], _rounds(f), duration(f["seconds"]), strategy))
        head = ("RUN", "STATUS", "ROUNDS", "DURATION", "STRATEGY")
        taken = max(len(line) for line in _table(head, rows).splitlines()) + 2
        room = max(SHORTEST_END, shutil.get_terminal_size((160, 24)).columns - taken)
        ends = [_shortened(_at_the_end(f), room) for f in facts]
        lines = [(*row, end) for row, end in zip(rows, ends, strict=True)]
        click.echo(_table((*head, "AT THE END"), lines))


@main.command("show")
@the_run
@as_json
def show_run(run_id: str, as_json: bool) -> None:
    """Show what a run is, how it ended, which clients failed, and how its numbers are made."""
    from flautim_lab.records.store import Records
    from flautim_lab.runners.progress import Follower

    records = Records.default()
    found = records.find(run_id)
    record, events = records.run(found), records.events(found, kinds=("metric", "failure"))
    folder = str(records.folder(found))
    if as_json:
        _print_json({**_facts(record, events), "folder": folder, "plan": record.plan})
        return
    facts: dict[str, object] = {
        "run": record.id,
        "name": record.name,
        "status": str(record.status),
        **({"message": record.message} if record.message else {}),
        "rounds": f"{record.round} of {record.rounds}",
        "duration": duration(record.seconds),
        "started": _local_time(record.started),
        "clients": record.clients,
        "runner": f"{record.runner}, on {record.host}",
        "files": folder,
    }
    click.echo(_pairs(facts))
    for split, values in _final(events).items():
        click.echo(f"\n{split}, last value, mean over clients, weighted by rows\n{_pairs(values)}")
    follower = Follower()
    follower.read(events)
    names = record.settings.get("client_names") or [f"client {n}" for n in range(record.clients)]
    failed = [client for client in follower.clients(names, []) if client.error]
    if failed:
        errors = {f"client {c.number}, {c.name}": c.error for c in failed}
        click.echo(f"\nclients that failed in their last round\n{_pairs(errors)}")
        click.echo(f"  more: flautim-lab logs {record.id} --client {failed[0].number}")
    settings = {k: v for k, v in record.settings.items() if not isinstance(v, list)}
    click.echo(f"\nsettings\n{_pairs(settings)}")
    click.echo(f"\nhow the numbers are made\n{_pairs(record.plan)}")


@main.command("logs")
@the_run
@click.option("--client", type=int, help="Only what concerns this client.")
@click.option("--last", type=click.IntRange(0), help="Only so many entries, the newest.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended (or Ctrl-C).")
def show_logs(run_id: str, client: int | None, last: int | None, follow: bool) -> None:
    """Print the log of a run."""
    run = _run(run_id)
    known = run.logs(client)
    shown = known if last is None else run.logs(client, last)
    if shown:
        click.echo(shown)
    try:
        while follow:
            ended = run.status.ended  # asked first, so that its last lines are read after it
            text = run.logs(client)
            if len(text) > len(known):
                click.echo(text[len(known) :].lstrip("\n"))
            known = text
            if ended:
                break
            time.sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_BY_USER)


@main.command("stop")
@the_run
def stop_run(run_id: str) -> None:
    """Ask a run to stop; it ends with its next batch and keeps its last whole round."""
    from flautim_lab.records.store import Records

    # Not through Run, which loads torch: whoever wants to stop a run is in a hurry.
    records = Records.default()
    found = records.find(run_id)
    status = records.run(found).status
    if status.ended:
        click.echo(f"run {found} has ended already: {status}")
        return
    records.request_stop(found)
    click.echo(
        f"asked run {found} to stop; it ends with its next batch and keeps its last whole round "
        f"(flautim-lab show {found} tells when it has)"
    )


@main.command("scale")
@the_run
@click.option(
    "--workers", "asked", required=True, multiple=True, metavar="N",
    help="How many, or NAMESPACE=N; may be given again for other namespaces.",
)  # fmt: skip
def scale_run(run_id: str, asked: Sequence[str]) -> None:
    """Change how many worker pods train a run on a cluster, while it goes."""
    from flautim_lab.records.store import Records
    from flautim_lab.runners.scale import scale

    records = Records.default()
    found = records.find(run_id)
    click.echo(scale(records.run(found), records.folder(found), _workers(asked)))


@main.command("download")
@the_run
@click.option("--what", type=click.Choice(DOWNLOADS), required=True, help="Which part.")
@click.option(
    "--to", type=str, metavar="PATH",
    help="A file, which must not exist yet, or a folder (one that exists, or any name that ends in "
    "a slash).  [default: here]",
)  # fmt: skip
def download(run_id: str, what: str, to: str | None) -> None:
    """Write a part of a run to a file, and print where it is."""
    click.echo(_run(run_id).download(what, to))


@main.command("plot")
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

    first, *others = [_run(run_id) for run_id in run_ids]
    figure = first.plot(metric, compare=others)
    try:
        if suffix == ".png":
            output.write_bytes(to_png(figure))
        else:
            figure.savefig(output)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from error
    click.echo(output)


@main.command("doctor")
@click.option("--cluster", is_flag=True, help="Look at a Kubernetes cluster instead.")
@click.option("--context", help="Of the kubeconfig.  [default: its current one]")
@click.option(
    "--namespace", "namespaces", multiple=True,
    help="Where to look; may be given again.  [default: the kubeconfig's]",
)  # fmt: skip
@click.option("--remove", is_flag=True, help="Remove what runs have left there, without asking.")
@click.option(
    "--run", "run_ids", multiple=True, metavar="ID",
    help="Remove this run, even if it goes on; may be given again.",
)  # fmt: skip
@as_json
def doctor(
    cluster: bool,
    context: str | None,
    namespaces: tuple[str, ...],
    remove: bool,
    run_ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """Tell what is installed, what can run here, what is missing and how to get it.

    With --cluster: what you may not do on a cluster, and what runs have left there.
    """
    if cluster:
        _examine_cluster(context, namespaces, remove, run_ids, as_json)
        return
    if context or namespaces or remove or run_ids:
        raise click.UsageError("--context, --namespace, --remove and --run go with --cluster")
    from flautim_lab.runners.doctor import examine

    checks = examine()
    if as_json:
        _print_json([vars(check) for check in checks])
    else:
        rows = [(check.state, check.name, check.found) for check in checks]
        click.echo(_table(("", "", ""), rows).lstrip("\n"))
        for check in checks:
            if check.advice:
                click.echo(f"{check.name}: {check.advice}")
    if any(check.state == "problem" for check in checks):
        sys.exit(1)


def _examine_cluster(
    context: str | None,
    namespaces: Sequence[str],
    remove: bool,
    run_ids: Sequence[str],
    as_json: bool,
) -> None:
    from flautim_lab.runners.cluster_doctor import ClusterDoctor

    looking = ClusterDoctor(context, namespaces)
    denied, findings = looking.denied, looking.find()
    wanted = looking.named(findings, run_ids)
    leftovers = [each for each in findings if each.leftover and each not in wanted]
    if not as_json:
        click.echo("\n".join(looking.lines()))
        if findings:
            head = ("RUN", "STATE", "AGE", "HOLDS", "")
            click.echo(_table(head, [finding.as_row() for finding in findings]))
    if remove:
        wanted += leftovers
    elif leftovers and not as_json:
        what = f"what {count(len(leftovers), 'run')} left"
        if not _is_terminal():
            click.echo(f"flautim-lab doctor --cluster --remove removes {what}")
        elif click.confirm(f"Remove {what}?"):
            wanted += leftovers
    stay = looking.remove(wanted)
    removed = [finding.found.run_id for finding in wanted]
    if as_json:
        told = {"cluster": looking.cluster, "denied": denied, "removed": removed, "pods_left": stay}
        _print_json(told | {"runs": [finding.as_dict() for finding in findings]})
    elif removed:
        click.echo(f"removed: {', '.join(removed)}")
    if stay and not as_json:
        click.echo(f"pods that did not end: {', '.join(stay)}")
    if stay or any(denied.values()):
        sys.exit(1)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _workers(asked: Sequence[str]) -> int | dict[str, int]:
    """Return the numbers of workers that are asked for: one, or one per namespace."""
    pairs = [text.rpartition("=")[::2] for text in asked]
    wrong = next((text for text, (_, n) in zip(asked, pairs, strict=True) if not n.isdecimal()), "")
    if wrong or (len(pairs) > 1 and not all(space for space, _ in pairs)):
        raise click.UsageError(
            f"--workers {wrong or ' '.join(asked)}: give one number, such as 2, or one per "
            "namespace, such as ufmg=2"
        )
    numbers = {space: int(number) for space, number in pairs}
    return numbers.get("", numbers)


def _run(text: str) -> Run:
    from flautim_lab.records.store import Records
    from flautim_lab.runners.run import Run

    records = Records.default()
    return Run(records, records.find(text))


def _facts(record: RunRecord, events: Iterable[Event]) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "runner": record.runner,
        "status": str(record.status),
        "message": record.message,
        "round": record.round,
        "rounds": record.rounds,
        "clients": record.clients,
        "created": record.created,
        "seconds": record.seconds,
        "settings": record.settings,
        "final": _final(events),
    }


def _with_final(records: Records, record: RunRecord) -> dict[str, Any]:
    """Return the facts of a run, reading no more of its metrics than their last rounds."""
    after = max(0, records.last_seq(record.id) - 20 * (record.clients + 10))
    events = records.events(record.id, after=after, kinds=("metric",))
    if after and (not events or events[0].round >= record.round):  # not even one whole round
        events = records.events(record.id, kinds=("metric",))
    return _facts(record, events)


def _final(events: Iterable[Event]) -> dict[str, dict[str, float]]:
    """Return the last value of each metric over all clients, by split; validation first."""
    from flautim_lab.records.event import ALL_CLIENTS

    final: dict[str, dict[str, float]] = {}
    for event in events:
        if event.kind == "metric" and event.client == ALL_CLIENTS:
            value = math.nan if event.value is None else event.value
            final.setdefault(event.split, {})[event.name] = value
    return {split: dict(sorted(final[split].items())) for split in sorted(final, reverse=True)}


def _rounds(facts: dict[str, Any]) -> str:
    return f"{facts['round']}/{facts['rounds']}"


def _at_the_end(facts: dict[str, Any]) -> str:
    """Return in one line what came out of a run, or why nothing did."""
    reason = " ".join(facts["message"].split())
    if reason and facts["status"] in ("failed", "interrupted"):
        return reason
    final = facts["final"]
    split = "validation" if "validation" in final else "train"
    values = ", ".join(f"{name} {value:.4g}" for name, value in final.get(split, {}).items())
    return "; ".join(part for part in (f"{split} {values}" if values else "", reason) if part)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3].rstrip()}..."


def _show_cell(cell: CellProgress) -> None:
    text = f"cell {cell.number} of {cell.total}: {cell.line}"
    run = cell.run
    end = f"  [{run.name}: round {run.round}/{run.rounds}]" if run is not None else ""
    end = _shortened(end, 50)
    click.echo(f"\r\x1b[2K{_shortened(text, 78 - len(end))}{end}", err=True, nl=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _pairs(facts: Mapping[str, object]) -> str:
    width = max((len(name) for name in facts), default=0)
    lines = []
    for name, value in facts.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        lines.append(f"  {name:<{width}}  {text}".rstrip())
    return "\n".join(lines)


def _local_time(moment: float | None) -> str:
    if moment is None:
        return "not yet"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    """Return ``value`` with null for what JSON has no number for (nan, infinity)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


if __name__ == "__main__":
    main()
