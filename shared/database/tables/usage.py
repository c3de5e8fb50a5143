"""What each tenant used, by day (UTC) and key: the sums of each day, and the entries that are not summed yet.

`shared/tenants/usage.py` writes and reads them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Date, Float, ForeignKey, Identity, Index, Table, Uuid

from shared.database.tables.base import Base


def _counted() -> list[Column[Any]]:
    """Return the columns of both tables. `key_id` is null for jobs that older versions accepted."""
    return [
        Column("tenant_id", Uuid, ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False),
        Column("day", Date, nullable=False),
        Column("key_id", Uuid),
        Column("jobs", BigInteger, nullable=False),
        Column("bytes", BigInteger, nullable=False),
        Column("device_seconds", Float, nullable=False),
    ]


#: One job that ended, written in the transaction that ends it. Retention adds it to its day and deletes it.
USAGE_ENTRIES = Table(
    "usage_entries",
    Base.metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    *_counted(),
    Index("usage_entries_tenant", "tenant_id"),
)
#: The sums of one day and key.
USAGE_DAYS = Table(
    "usage_days",
    Base.metadata,
    *_counted(),
    Index("usage_days_key", "tenant_id", "day", "key_id", unique=True, postgresql_nulls_not_distinct=True),
)
