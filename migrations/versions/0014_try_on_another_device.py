"""Remember which worker's device could not judge a job, so that another one tries before the job fails."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("failed_on", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "failed_on")
