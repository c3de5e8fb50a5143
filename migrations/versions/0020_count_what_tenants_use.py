"""Count the jobs, bytes and device seconds of each tenant and key by day, also of jobs that are deleted since."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0015"
branch_labels = None
depends_on = None

_TENANT = "nullif(current_setting('distildire.tenant', true), '')::uuid"
#: Tables with a row for each tenant, day and key.
_TABLES = ("usage_entries", "usage_days")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("key_id", sa.Uuid(), nullable=True))
    op.add_column("results", sa.Column("device_seconds", sa.Float(), nullable=True))
    op.add_column("tenants", sa.Column("max_daily_device_seconds", sa.Integer(), nullable=True))
    op.create_check_constraint("tenants_max_daily_device_seconds", "tenants", "max_daily_device_seconds >= 1")
    op.create_table(
        "usage_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True),
        *_what_is_counted(),
    )
    op.create_index("usage_entries_tenant", "usage_entries", ["tenant_id"])
    op.create_table("usage_days", *_what_is_counted())
    op.create_index(
        "usage_days_key", "usage_days", ["tenant_id", "day", "key_id"], unique=True, postgresql_nulls_not_distinct=True
    )
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING (tenant_id = {_TENANT}) WITH CHECK (tenant_id = {_TENANT})")


def _what_is_counted() -> list[sa.Column[object]]:
    return [
        sa.Column("tenant_id", sa.Uuid(), sa.ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("device_seconds", sa.Float(), nullable=False),
    ]


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
    op.drop_column("tenants", "max_daily_device_seconds")
    op.drop_column("results", "device_seconds")
    op.drop_column("jobs", "key_id")
