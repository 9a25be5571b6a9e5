"""The datasets of an experiment's version beside its first one: of further institutions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from flautim_lab.catalog.schema import datasets, experiment_datasets, institutions

Version = tuple[int, int]  # the id of an experiment, or a dataset, and a number


def read_more(connection: sa.Connection, experiments: Iterable[int]) -> dict[Version, list[str]]:
    """Return the further datasets (with versions) of all versions of some experiments."""
    table = experiment_datasets
    query = (
        sa.select(
            table.c.experiment_id,
            table.c.number,
            institutions.c.key.label("institution"),
            datasets.c.key,
            table.c.dataset_number,
        )
        .join_from(table, datasets, table.c.dataset_id == datasets.c.id)
        .join(institutions, datasets.c.institution_id == institutions.c.id)
        .where(table.c.experiment_id.in_(sorted(set(experiments))))
        .order_by(table.c.experiment_id, table.c.number, table.c.position)
    )
    found: dict[Version, list[str]] = {}
    for row in connection.execute(query):
        ref = f"{row.institution}/{row.key}@{row.dataset_number}"
        found.setdefault((row.experiment_id, row.number), []).append(ref)
    return found


def write_more(
    connection: sa.Connection, experiment: int, number: int, more: Sequence[Version]
) -> None:
    """Keep the further datasets of a new version."""
    rows: list[Mapping[str, int]] = [
        {
            "experiment_id": experiment,
            "number": number,
            "position": position,
            "dataset_id": dataset,
            "dataset_number": dataset_number,
        }
        for position, (dataset, dataset_number) in enumerate(more, 1)
    ]
    if rows:
        connection.execute(sa.insert(experiment_datasets), rows)
