"""Say how a model computed: its device and its number format, which move a probability a little."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("device", "precision"):
        op.add_column("results", sa.Column(name, sa.Text(), nullable=True))  # not known of older results


def downgrade() -> None:
    for name in ("precision", "device"):
        op.drop_column("results", name)
