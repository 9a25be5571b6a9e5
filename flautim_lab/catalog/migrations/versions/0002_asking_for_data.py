"""Asking for a dataset: requests, who reads what, further datasets, and the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the change."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("institution", NAME, nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("user", NAME, nullable=False),
        sa.Column("action", NAME, nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_institution"), "audit", ["institution"], unique=False)
    op.create_table(
        "grant_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("code", NAME, nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("guards", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("asked_by", NAME, nullable=False),
        sa.Column("asked", sa.Double(), nullable=False),
        sa.Column("answer", NAME, nullable=False),
        sa.Column("answered_by", NAME, nullable=False),
        sa.Column("answered", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_grant_requests_dataset_id")
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_grant_requests_project_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grant_requests")),
    )
    op.create_index(
        op.f("ix_grant_requests_dataset_id"), "grant_requests", ["dataset_id"], unique=False
    )
    op.create_index(
        op.f("ix_grant_requests_project_id"), "grant_requests", ["project_id"], unique=False
    )
    op.create_table(
        "run_uses",
        sa.Column("run_id", NAME, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("dataset_number", sa.Integer(), nullable=False),
        sa.Column("project", NAME, nullable=False),
        sa.Column("code", NAME, nullable=False),
        sa.Column("started_by", NAME, nullable=False),
        sa.Column("by_service", sa.Boolean(), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("stop_asked", sa.Double(), nullable=True),
        sa.Column("stop_asked_by", NAME, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_run_uses_dataset_id")
        ),
        sa.PrimaryKeyConstraint("run_id", "dataset_id", name=op.f("pk_run_uses")),
    )
    op.create_index("ix_run_uses_dataset_id", "run_uses", ["dataset_id"], unique=False)
    op.create_table(
        "experiment_datasets",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("dataset_number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id", "dataset_number"],
            ["dataset_versions.dataset_id", "dataset_versions.number"],
            name=op.f("fk_experiment_datasets_dataset_id_dataset_number"),
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_experiment_datasets_dataset_id")
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id", "number"],
            ["experiment_versions.experiment_id", "experiment_versions.number"],
            name=op.f("fk_experiment_datasets_experiment_id_number"),
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_datasets_experiment_id")
        ),
        sa.PrimaryKeyConstraint(
            "experiment_id", "number", "position", name=op.f("pk_experiment_datasets")
        ),
    )
    op.create_index(
        op.f("ix_experiment_datasets_dataset_id"),
        "experiment_datasets",
        ["dataset_id"],
        unique=False,
    )
    op.add_column(
        "datasets", sa.Column("published", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("grants", sa.Column("code", sa.Text(), nullable=False, server_default=""))
    # Runs of before: what they read is known from what they were made with.
    op.execute(
        """
        INSERT INTO run_uses (
            run_id, dataset_id, dataset_number, project, code, started_by, by_service, started,
            ended, stop_asked_by
        )
        SELECT l.run_id, v.dataset_id, v.dataset_number, i.key || '/' || p.key, '', l.started_by,
            false, l.created, l.created, ''
        FROM run_links l
        JOIN experiment_versions v
            ON v.experiment_id = l.experiment_id AND v.number = l.experiment_number
        JOIN experiments e ON e.id = l.experiment_id
        JOIN projects p ON p.id = e.project_id
        JOIN institutions i ON i.id = p.institution_id
        """
    )
