"""Keep a tally of both queues, so that no statement reads more than it needs, however deep they are (docs/adr/0007)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_Column = str | sa.TextClause

#: No statement asks these any more. Those of the version before then read more rows, until it is stopped.
_UNREAD = (
    *("jobs_claim", "jobs_running", "jobs_ended"),
    *("webhook_deliveries_due", "webhook_deliveries_next", "webhook_deliveries_in_flight"),
    "ix_webhook_deliveries_endpoint_id",
)
_LAST_TO_FIRST = (
    *("FUNCTION clear_tally", "FUNCTION fold_tally", "FUNCTION count_anew", "FUNCTION fold_moves"),
    *(
        "FUNCTION tally_delivery",
        "FUNCTION tally_job",
        "FUNCTION oldest_snapshot",
        "FUNCTION due_deliveries",
        "FUNCTION oldest_waiting",
    ),
    *("FUNCTION deliveries_of", "FUNCTION pending_deliveries", "FUNCTION queued_jobs"),
    *("FUNCTION queue_totals", "VIEW leased_deliveries", "VIEW running_jobs"),
    *("FUNCTION tally_under_way", "FUNCTION tally_waiting", "VIEW tally_since", "VIEW tally_last"),
    *("TABLE tally_running", "TABLE tally_lanes", "TABLE tally_folds", "TABLE tally_moves", "SEQUENCE tally_ticks"),
)


def upgrade() -> None:
    _index_queues()
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(f"SET LOCAL search_path = {schema}, pg_temp")  # which the functions keep: nobody can put a table before
    op.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    for table in ("jobs", "webhook_deliveries"):
        for event in ("insert", "update", "delete", "truncate"):
            op.execute(f"DROP TRIGGER tally_{event} ON {table}")
    for thing in _LAST_TO_FIRST:
        op.execute(f"DROP {thing}")
    for name, table, _, _ in _indexes():
        op.drop_index(name, table_name=table)
    claim: list[_Column] = ["tenant_id", sa.text("priority DESC"), "created_at", "id"]
    op.create_index("jobs_claim", "jobs", claim, postgresql_where=sa.text("state = 'queued'"))
    op.create_index("jobs_running", "jobs", ["tenant_id"], postgresql_where=sa.text("state = 'running'"))
    has_ended = sa.text("finished_at IS NOT NULL")
    op.create_index("jobs_ended", "jobs", ["finished_at", "state"], postgresql_where=has_ended)
    op.create_index("ix_webhook_deliveries_endpoint_id", "webhook_deliveries", ["endpoint_id"])
    for name, columns, condition in (
        ("due", ["next_attempt_at"], "state = 'pending'"),
        ("next", ["endpoint_id", "next_attempt_at"], "state = 'pending'"),
        ("in_flight", ["endpoint_id", "lease_until"], "lease_until IS NOT NULL"),
    ):
        table = "webhook_deliveries"
        op.create_index(f"{table}_{name}", table, columns, postgresql_where=sa.text(condition))


def _indexes() -> Sequence[tuple[str, str, list[_Column], str | None]]:
    """Return name, table, columns and condition of each."""
    # In an order that no other index has, by which rows that have ended would be read.
    kind = [sa.text(f"coalesce({column}, '')") for column in ("model", "policy")]
    lane: list[_Column] = ["tenant_id", "priority", sa.text("(attempt > 0)"), "suspect", *kind, "created_at"]
    lane.append(sa.text("(id::text)"))
    waits = "state = 'pending' AND lease_until IS NULL"
    newest = [sa.text("created_at DESC"), sa.text("id DESC")]
    due: list[_Column] = ["endpoint_id", "next_attempt_at", sa.text("(id::text)")]
    return (
        ("jobs_lane", "jobs", lane, "state = 'queued'"),
        ("webhook_deliveries_lane", "webhook_deliveries", due, waits),
        ("webhook_deliveries_list_by_state", "webhook_deliveries", ["tenant_id", "state", *newest], None),
        ("webhook_deliveries_list_by_endpoint", "webhook_deliveries", ["endpoint_id", "state", *newest], None),
    )


def _index_queues() -> None:
    """Keep nobody from writing meanwhile; what an earlier try left half made is made anew."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '5min'")  # it waits for every transaction that began before it
        for name, table, columns, where in _indexes():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            condition = sa.text(where) if where else None
            op.create_index(name, table, columns, postgresql_where=condition, postgresql_concurrently=True)
        for name in _UNREAD:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute("SET lock_timeout = '4s'")
