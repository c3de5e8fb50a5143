"""Look at each endpoint once for the next webhook; know endpoints that fail, and deliveries that were sent anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_PENDING, _LEASED = sa.text("state = 'pending'"), sa.text("lease_until IS NOT NULL")


def upgrade() -> None:
    op.add_column("webhook_endpoints", sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook_deliveries", sa.Column("tries_before", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "webhook_deliveries_next",
        "webhook_deliveries",
        ["endpoint_id", "next_attempt_at"],
        unique=False,
        postgresql_where=_PENDING,
    )
    _index_leased(["endpoint_id", "lease_until"])  # with one column, PostgreSQL may take the index of all deliveries


def downgrade() -> None:
    _index_leased(["endpoint_id"])
    op.drop_index("webhook_deliveries_next", table_name="webhook_deliveries", postgresql_where=_PENDING)
    op.drop_column("webhook_deliveries", "tries_before")
    op.drop_column("webhook_endpoints", "failing_since")


def _index_leased(columns: list[str]) -> None:
    name, table = "webhook_deliveries_in_flight", "webhook_deliveries"
    op.drop_index(name, table_name=table, postgresql_where=_LEASED)
    op.create_index(name, table, columns, unique=False, postgresql_where=_LEASED)
