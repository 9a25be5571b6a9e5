"""What to call each of several runs on one plot: that in which it differs from the others."""

from __future__ import annotations

from collections.abc import Sequence

from flautim_lab.records.event import RunRecord

# What tells runs apart on a plot: shown as it is, or with its name before it.
_SPEAK_FOR_THEMSELVES = ("name", "strategy", "model", "dataset", "partition")
_NAMED = ("strategy_args", "lr", "local_epochs", "batch_size", "clients_per_round", "optimizer")
_ALSO_NAMED = ("rounds", "seed")


def labels(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return a label per run that says in what it differs from the others."""
    facts = [{**record.settings, "name": record.name} for record in records]
    words: dict[str, list[str]] = {record.id: [] for record in records}
    baseline = any(fact.get("centralized") for fact in facts)
    for key in (*_SPEAK_FOR_THEMSELVES, *_NAMED, *_ALSO_NAMED):
        if baseline and key in ("partition", "clients_per_round"):
            continue  # all rows in one place have no such thing
        values = [fact.get(key, "") for fact in facts]
        if len({str(value) for value in values}) == 1:
            continue
        for record, value in zip(records, values, strict=True):
            if key in _SPEAK_FOR_THEMSELVES:
                words[record.id].append(str(value))
            elif record.settings.get("centralized"):
                continue  # "centralized" says it; the rest is of the experiment beside it
            elif isinstance(value, dict):
                words[record.id] += [f"{name}={text}" for name, text in value.items()]
            else:
                words[record.id].append(f"{key}={value}")
    joined = {run_id: ", ".join(parts) for run_id, parts in words.items()}
    if len(set(joined.values())) == len(records) > 1:
        return joined
    return {
        record.id: f"{joined[record.id] or record.name} ({record.id[-8:]})"
        if len(records) > 1
        else record.name
        for record in records
    }
