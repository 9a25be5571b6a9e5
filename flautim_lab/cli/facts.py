"""A run as the commands tell of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flautim_lab.records.event import Event, RunRecord
    from flautim_lab.records.store import Records
    from flautim_lab.runners.run import Run

the_run = click.argument("run_id", metavar="RUN")


def find_run(text: str) -> Run:
    """Return the run that an argument of the command line names."""
    from flautim_lab.records.store import Records
    from flautim_lab.runners.run import Run

    records = Records.default()
    return Run(records, records.find(text))


def facts_of(record: RunRecord, events: Iterable[Event]) -> dict[str, Any]:
    """Return what is told of a run, with the last values among its events."""
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
        "final": final_values(events),
    }


def with_final(records: Records, record: RunRecord) -> dict[str, Any]:
    """Return the facts of a run, reading no more of its metrics than their last rounds."""
    after = max(0, records.last_seq(record.id) - 20 * (record.clients + 10))
    events = records.events(record.id, after=after, kinds=("metric",))
    if after and (not events or events[0].round >= record.round):  # not even one whole round
        events = records.events(record.id, kinds=("metric",))
    return facts_of(record, events)


def final_values(events: Iterable[Event]) -> dict[str, dict[str, float]]:
    """Return the last value of each metric over all clients, by split; validation first."""
    from flautim_lab.records.event import ALL_CLIENTS

    final: dict[str, dict[str, float]] = {}
    for event in events:
        if event.kind == "metric" and event.client == ALL_CLIENTS:
            value = math.nan if event.value is None else event.value
            final.setdefault(event.split, {})[event.name] = value
    return {split: dict(sorted(final[split].items())) for split in sorted(final, reverse=True)}


def rounds_of(facts: dict[str, Any]) -> str:
    """Return how far a run came, such as ``"3/20"``."""
    return f"{facts['round']}/{facts['rounds']}"


def at_the_end(facts: dict[str, Any]) -> str:
    """Return in one line what came out of a run, or why nothing did."""
    reason = " ".join(facts["message"].split())
    if reason and facts["status"] in ("failed", "interrupted"):
        return reason
    final = facts["final"]
    split = "validation" if "validation" in final else "train"
    values = ", ".join(f"{name} {value:.4g}" for name, value in final.get(split, {}).items())
    return "; ".join(part for part in (f"{split} {values}" if values else "", reason) if part)
