"""Count the death of a process against a job only where the process carried nothing else."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("suspect", "alone"):
        op.add_column("jobs", sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("jobs", sa.Column("beat_at", sa.DateTime(timezone=True), nullable=True))
    # What was counted until now may have been a neighbour's doing: the jobs start anew, each alone.
    op.execute("UPDATE jobs SET suspect = true, deaths = 0 WHERE deaths > 0 AND state IN ('queued', 'running')")


def downgrade() -> None:
    for name in ("beat_at", "alone", "suspect"):
        op.drop_column("jobs", name)
