"""Give API keys scopes, an end and a sign of use, and let a tenant keep its own over HTTP."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_TENANT = "nullif(current_setting('distildire.tenant', true), '')::uuid"


def upgrade() -> None:
    # Keys that are there do what they did; none of them may make others.
    op.add_column(
        "api_keys",
        sa.Column(
            "scopes", sa.ARRAY(sa.Text()), server_default=sa.text("'{submit,read,webhooks,review}'"), nullable=False
        ),
    )
    op.add_column("api_keys", sa.Column("prefix", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    # Beside the policy of 0007, by which a request sees the key that it was sent with. An operator's key is made by the
    # operator alone.
    op.execute(
        f"CREATE POLICY keys_of_tenant ON api_keys USING (tenant_id = {_TENANT})"
        f" WITH CHECK (tenant_id = {_TENANT} AND NOT operator)"
    )


def downgrade() -> None:
    op.execute("DROP POLICY keys_of_tenant ON api_keys")
    for column in ("last_used_at", "expires_at", "prefix", "scopes"):
        op.drop_column("api_keys", column)
