"""The command that tells what can run here, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from flautim_lab.cli.printing import as_json, print_json, table
from flautim_lab.names import count


@click.command("doctor")
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
def diagnose(
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
        print_json([vars(check) for check in checks])
    else:
        rows = [(check.state, check.name, check.found) for check in checks]
        click.echo(table(("", "", ""), rows).lstrip("\n"))
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
            click.echo(table(head, [finding.as_row() for finding in findings]))
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
        print_json(told | {"runs": [finding.as_dict() for finding in findings]})
    elif removed:
        click.echo(f"removed: {', '.join(removed)}")
    if stay and not as_json:
        click.echo(f"pods that did not end: {', '.join(stay)}")
    if stay or any(denied.values()):
        sys.exit(1)


def _is_terminal() -> bool:
    return sys.stdin.isatty()
