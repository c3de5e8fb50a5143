"""The tally of both queues, jobs and deliveries: docs/adr/0007.

Triggers write the moves, and `fold_tally` writes the other tables. The service reads them through the views and
functions `tally_*` and `queue_*` (`shared/jobs/tally.py`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from shared.database.tables.base import Base
from shared.domain import JobState


def _lane() -> list[Column[Any]]:
    """Return the columns of a lane: a tenant's jobs of one priority, model and so on, or an endpoint's deliveries."""
    return [
        Column("queue", Text, nullable=False),
        Column("tenant_id", Uuid, nullable=False),
        Column("owner", Uuid, nullable=False),
        Column("rank", SmallInteger, server_default="0", nullable=False),
        Column("begun", Boolean, server_default="false", nullable=False),
        Column("suspect", Boolean, server_default="false", nullable=False),
        Column("model", Text, server_default="", nullable=False),
        Column("policy", Text, server_default="", nullable=False),
    ]


_COUNTED = ("jobs_waiting", "jobs_running", "deliveries_waiting", "deliveries_running")
_ENDED = tuple(state for state in JobState if state.terminal)

#: Rows that entered a queue, left it or began to run since the last fold, written by the transaction that moved them.
TALLY_MOVES = Table(
    "tally_moves",
    Base.metadata,
    Column("xid", BigInteger, server_default=text("pg_current_xact_id()::text::bigint"), nullable=False),
    *_lane(),
    Column("item", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("waiting", SmallInteger, nullable=False),
    Column("running", SmallInteger, nullable=False),
    Column("ended", Text),
    Index("tally_moves_xid", "xid"),
)
#: The sums at one moment. Lanes are kept only for the last fold.
TALLY_FOLDS = Table(
    "tally_folds",
    Base.metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), server_default=text("clock_timestamp()"), nullable=False),
    Column("from_xid", BigInteger, nullable=False),
    *(Column(name, BigInteger, server_default="0", nullable=False) for name in (*_COUNTED, *_ENDED)),
    Index("tally_folds_at", "at"),
)
#: The lanes that had waiting rows at a fold, and where each began in the index of the queue.
TALLY_LANES = Table(
    "tally_lanes",
    Base.metadata,
    Column("fold", BigInteger, nullable=False),
    *_lane(),
    Column("waiting", BigInteger, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("item", Uuid, nullable=False),
    PrimaryKeyConstraint("fold", "queue", "owner", "rank", "begun", "suspect", "model", "policy"),
)
#: The rows that ran at a fold.
TALLY_RUNNING = Table(
    "tally_running",
    Base.metadata,
    Column("fold", BigInteger, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner", Uuid, primary_key=True),
    Column("item", Uuid, primary_key=True),
)
