"""Let jobs and tenants name a policy, results say which one called them, and workers which they have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # In the order in which a claim locks the tables, or the two could wait for each other.
    op.add_column("workers", sa.Column("policies", sa.ARRAY(sa.Text()), server_default="{}", nullable=False))
    op.add_column("jobs", sa.Column("policy", sa.Text(), nullable=True))
    op.add_column("tenants", sa.Column("policy", sa.Text(), nullable=True))
    # Null in what workers of the version before write, which know no policies: a job may outlive an upgrade.
    op.add_column("results", sa.Column("raw_probability_fake", sa.Double(), nullable=True))
    op.add_column("results", sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "policies")
    op.drop_column("results", "policy")
    op.drop_column("results", "raw_probability_fake")
    op.drop_column("jobs", "policy")
    op.drop_column("tenants", "policy")
