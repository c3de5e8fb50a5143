"""Bound what a tenant may have open and how long what has ended is kept; find dead jobs, and know their replays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_HAS_ENDED, _HAS_ERROR, _IS_REPLAY = (
    sa.text(f"{column} IS NOT NULL") for column in ("finished_at", "error_code", "replay_of")
)


def upgrade() -> None:
    for name in ("max_open_jobs", "retention_days"):
        op.add_column("tenants", sa.Column(name, sa.Integer(), nullable=True))
        op.create_check_constraint(f"tenants_{name}", "tenants", f"{name} >= 1")
    op.add_column("jobs", sa.Column("replay_of", sa.Uuid(), nullable=True))
    op.create_index("jobs_retention", "jobs", ["tenant_id", "finished_at"], unique=False, postgresql_where=_HAS_ENDED)
    op.create_index(
        "jobs_list_by_error",
        "jobs",
        ["tenant_id", "error_code", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
        postgresql_where=_HAS_ERROR,
    )
    op.create_index("jobs_replays", "jobs", ["replay_of"], unique=False, postgresql_where=_IS_REPLAY)
    op.create_table(
        "erasures",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index(op.f("ix_erasures_due_at"), "erasures", ["due_at"], unique=False)
    op.create_table(
        "bucket_walk",
        sa.Column("only", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("after_key", sa.Text(), server_default="", nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint('"only"', name="bucket_walk_only"),
        sa.PrimaryKeyConstraint("only"),
    )


def downgrade() -> None:
    op.drop_table("bucket_walk")
    op.drop_index(op.f("ix_erasures_due_at"), table_name="erasures")
    op.drop_table("erasures")
    op.drop_index("jobs_replays", table_name="jobs", postgresql_where=_IS_REPLAY)
    op.drop_index("jobs_list_by_error", table_name="jobs", postgresql_where=_HAS_ERROR)
    op.drop_index("jobs_retention", table_name="jobs", postgresql_where=_HAS_ENDED)
    op.drop_column("jobs", "replay_of")
    for name in ("retention_days", "max_open_jobs"):
        op.drop_constraint(f"tenants_{name}", "tenants")
        op.drop_column("tenants", name)
