"""Let a tenant filter, describe, test and re-key its webhook endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_COLUMNS: Mapping[str, sa.types.TypeEngine[Any]] = {
    "description": sa.Text(),
    "predictions": sa.ARRAY(sa.Text()),
    "public_key": sa.Text(),
    "old_secret_encrypted": sa.LargeBinary(),
    "old_secret_until": sa.DateTime(timezone=True),
}


def upgrade() -> None:
    for name, kind in _COLUMNS.items():
        op.add_column("webhook_endpoints", sa.Column(name, kind, nullable=True))
    op.alter_column("webhook_deliveries", "job_id", nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM webhook_deliveries WHERE job_id IS NULL")
    op.alter_column("webhook_deliveries", "job_id", nullable=False)
    for name in _COLUMNS:
        op.drop_column("webhook_endpoints", name)
