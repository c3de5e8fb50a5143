"""Put a wall between tenants: whoever is not the owner sees the rows of the tenant that the transaction names."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Both are empty strings once a transaction that set them has ended: then nothing matches.
_TENANT = "nullif(current_setting('distildire.tenant', true), '')::uuid"
_KEY_HASH = "decode(current_setting('distildire.key_hash', true), 'hex')"

_POLICIES = {
    "tenants": f"id = {_TENANT}",
    "api_keys": f"hash = {_KEY_HASH}",
    "jobs": f"tenant_id = {_TENANT}",
    "results": f"EXISTS (SELECT FROM jobs WHERE jobs.id = results.job_id AND jobs.tenant_id = {_TENANT})",
    "erasures": f"tenant_id = {_TENANT}",
    "webhook_endpoints": f"tenant_id = {_TENANT}",
    "webhook_deliveries": f"tenant_id = {_TENANT}",
    "webhook_attempts": "EXISTS (SELECT FROM webhook_deliveries AS delivery"
    f" WHERE delivery.id = webhook_attempts.delivery_id AND delivery.tenant_id = {_TENANT})",
}

# What may be counted over all tenants. A view reads as its owner, whom the wall does not stop.
_VIEWS = {
    "job_states": "SELECT state, created_at, deadline_at, finished_at FROM jobs",
    "delivery_states": "SELECT state, next_attempt_at FROM webhook_deliveries",
}


def upgrade() -> None:
    for table, rule in _POLICIES.items():
        # Not FORCE: the owner is the operator, who sees everything.
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING ({rule}) WITH CHECK ({rule})")
    for view, query in _VIEWS.items():
        op.execute(f"CREATE VIEW {view} AS {query}")


def downgrade() -> None:
    for view in _VIEWS:
        op.execute(f"DROP VIEW {view}")
    for table in _POLICIES:
        op.execute(f"DROP POLICY IF EXISTS worker ON {table}")  # made with its role: migrations/roles.py
        op.execute(f"DROP POLICY tenant ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
