"""Know the workers: who runs where, and how it fares; and which keys are an operator's, who may see them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_space", sa.Text(), nullable=True),
        sa.Column("pid_ticks", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("precision", sa.Text(), nullable=True),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("busy", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('analysis', 'webhooks', 'beat')", name="workers_role"),
        sa.CheckConstraint("state IN ('starting', 'ready', 'draining')", name="workers_state"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("api_keys", sa.Column("operator", sa.Boolean(), server_default="false", nullable=False))


def downgrade() -> None:
    op.drop_column("api_keys", "operator")
    op.drop_table("workers")
