"""Close an endpoint by a flag and let the rest follow; end deliveries by their age; know what is still to be erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Over all tenants, for the role of the API: so it acts as its owner. No more is counted than tells that it is much.
_BACKLOG = """
CREATE FUNCTION retention_backlog(default_days integer) RETURNS TABLE (jobs bigint, erasures bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp SET enable_bitmapscan = off AS $$
SELECT (
    SELECT count(*) FROM (
        SELECT FROM tenants CROSS JOIN LATERAL (
            SELECT FROM jobs
            WHERE tenant_id = tenants.id
              AND finished_at < now() - make_interval(days => coalesce(tenants.retention_days, default_days))
            ORDER BY tenant_id, finished_at LIMIT 10000
        ) AS old LIMIT 10000
    ) AS found
), (SELECT count(*) FROM (SELECT FROM erasures LIMIT 10000) AS found)
$$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '4s'")
        # With a default that holds for all rows there are, so that none is written: they count as begun now.
        op.execute(
            "ALTER TABLE webhook_deliveries ADD COLUMN IF NOT EXISTS begun_at timestamptz NOT NULL DEFAULT now()"
        )
        op.execute("SET lock_timeout = '5min'")  # an index waits for every transaction that began before it
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS webhook_deliveries_age")
        op.create_index(
            "webhook_deliveries_age",
            "webhook_deliveries",
            ["begun_at"],
            postgresql_where=sa.text("state = 'pending'"),
            postgresql_concurrently=True,
        )
        op.execute("SET lock_timeout = '4s'")
    op.add_column("webhook_endpoints", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("erasures", sa.Column("attempts", sa.Integer(), nullable=True))
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(_BACKLOG.format(schema=schema))


def downgrade() -> None:
    op.execute("DROP FUNCTION retention_backlog")
    op.execute("DELETE FROM webhook_endpoints WHERE deleted_at IS NOT NULL")
    op.drop_column("erasures", "attempts")
    op.drop_column("webhook_endpoints", "deleted_at")
    op.drop_index("webhook_deliveries_age", table_name="webhook_deliveries")
    op.drop_column("webhook_deliveries", "begun_at")
