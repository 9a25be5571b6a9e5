"""Commands for runs: which there are, how each goes, and what changes it while it goes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence

import click

from flautim_lab.cli.facts import (
    at_the_end,
    facts_of,
    final_values,
    find_run,
    rounds_of,
    the_run,
    with_final,
)
from flautim_lab.cli.printing import (
    INTERRUPTED_BY_USER,
    as_json,
    local_time,
    pairs,
    print_json,
    shortened,
    table,
)
from flautim_lab.names import duration

FOLLOW_SECONDS = 0.5
SHORTEST_END = 40  # characters that "runs" leaves for how a run ended, however narrow it is


@click.command("runs")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@as_json
def list_runs(limit: int, as_json: bool) -> None:
    """List the newest runs."""
    from flautim_lab.records.store import Records

    records = Records.default()
    facts = [with_final(records, record) for record in records.runs(limit=limit)]
    if as_json:
        print_json(facts)
    elif not facts:
        click.echo(f"no runs yet in {records.where}")
    else:
        rows = []
        for f in facts:
            strategy = str(f["settings"].get("strategy", ""))
            rows.append((f["id"], f["status"], rounds_of(f), duration(f["seconds"]), strategy))
        head = ("RUN", "STATUS", "ROUNDS", "DURATION", "STRATEGY")
        taken = max(len(line) for line in table(head, rows).splitlines()) + 2
        room = max(SHORTEST_END, shutil.get_terminal_size((160, 24)).columns - taken)
        ends = [shortened(at_the_end(f), room) for f in facts]
        lines = [(*row, end) for row, end in zip(rows, ends, strict=True)]
        click.echo(table((*head, "AT THE END"), lines))


@click.command("show")
@the_run
@as_json
def show_run(run_id: str, as_json: bool) -> None:
    """Show what a run is, how it ended, which clients failed, and how its numbers are made."""
    from flautim_lab.records.profile import engine_in_words
    from flautim_lab.records.store import Records
    from flautim_lab.runners.progress import Follower

    records = Records.default()
    found = records.find(run_id)
    record, events = records.run(found), records.events(found, kinds=("metric", "failure"))
    folder = str(records.folder(found))
    engine, rule = record.plan.get("engine", ""), record.plan.get("cohorts", "")
    if as_json:
        print_json({**facts_of(record, events), "folder": folder, "plan": record.plan})
        return
    facts: dict[str, object] = {
        "run": record.id,
        "name": record.name,
        "status": str(record.status),
        **({"message": record.message} if record.message else {}),
        "rounds": f"{record.round} of {record.rounds}",
        "duration": duration(record.seconds),
        "started": local_time(record.started),
        "clients": record.clients,
        "runner": f"{record.runner}, on {record.host}",
        **({"engine": engine_in_words(engine, rule)} if engine else {}),
        "files": folder,
    }
    click.echo(pairs(facts))
    for split, values in final_values(events).items():
        click.echo(f"\n{split}, last value, mean over clients, weighted by rows\n{pairs(values)}")
    follower = Follower()
    follower.read(events)
    names = record.settings.get("client_names") or [f"client {n}" for n in range(record.clients)]
    failed = [client for client in follower.clients(names, []) if client.error]
    if failed:
        errors = {f"client {c.number}, {c.name}": c.error for c in failed}
        click.echo(f"\nclients that failed in their last round\n{pairs(errors)}")
        click.echo(f"  more: flautim-lab logs {record.id} --client {failed[0].number}")
    settings = {k: v for k, v in record.settings.items() if not isinstance(v, list)}
    click.echo(f"\nsettings\n{pairs(settings)}")
    click.echo(f"\nhow the numbers are made\n{pairs(record.plan)}")


@click.command("logs")
@the_run
@click.option("--client", type=int, help="Only what concerns this client.")
@click.option("--last", type=click.IntRange(0), help="Only so many entries, the newest.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended (or Ctrl-C).")
def show_logs(run_id: str, client: int | None, last: int | None, follow: bool) -> None:
    """Print the log of a run."""
    run = find_run(run_id)
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


@click.command("stop")
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


@click.command("scale")
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
