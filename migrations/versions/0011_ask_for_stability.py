"""Let jobs ask how stable their verdict is, and results say it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("stability", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("results", sa.Column("stability", postgresql.JSONB(astext_type=sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column("results", "stability")
    op.drop_column("jobs", "stability")
