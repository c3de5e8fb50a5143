"""Pages of a tenant's rows, newest first. Keyset pagination makes every page cost the same.

A cursor names the last row that was shown. Rows that are added later are newer than that row, so a client that follows
the cursors sees no row twice, and misses none that existed when it began.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, Select, TextualSelect, Uuid, cast, func, literal, select, true, tuple_
from sqlalchemy.orm import Session, aliased

from shared.database.tables import JobRow, WebhookDelivery
from shared.errors import DistildireError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAYOUT = struct.Struct(">q16s")
_FROM_THE_NEWEST = {"before": "infinity", "before_id": UUID(int=0)}


class CursorError(DistildireError):
    """The cursor was not issued by this service. Start again without it."""


@dataclass(frozen=True)
class Cursor:
    """A place between two rows."""

    created_at: datetime
    id: UUID

    def encode(self) -> str:
        """Return 32 characters that are safe in a URL. Clients should treat them as opaque."""
        microseconds = (self.created_at - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(_LAYOUT.pack(microseconds, self.id.bytes)).decode()

    @classmethod
    def decode(cls, value: str) -> Self:
        """Undo `encode`; raise `CursorError` for anything else."""
        try:
            microseconds, identity = _LAYOUT.unpack(base64.b64decode(value, altchars=b"-_", validate=True))
            return cls(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=identity))
        except (binascii.Error, struct.error, ValueError, OverflowError) as error:
            raise CursorError from error


_Row = TypeVar("_Row")
_Table = TypeVar("_Table", JobRow, WebhookDelivery)


@dataclass(frozen=True)
class Page(Generic[_Row]):
    """Some rows, and the cursor of the next page; None on the last page."""

    rows: Sequence[_Row]
    next: Cursor | None


def open_places(
    session: Session, query: TextualSelect, tenant_id: UUID, after: Cursor | None, limit: int, endpoint: object = None
) -> list[Cursor]:
    """Return the places of a page of open rows, and of one more if another page follows.

    They come from the tally, so no row that has ended is read.
    """
    values = {"tenant": tenant_id, "endpoint": endpoint, "most": limit + 1}
    values |= {"before": after.created_at, "before_id": after.id} if after else _FROM_THE_NEWEST
    return [Cursor(created_at, identity) for identity, created_at in session.execute(query, values)]


def by_ids(table: type[_Table], ids: Collection[UUID]) -> type[_Table]:
    """Return a subquery of the rows with these ids, each looked up by its id.

    With a plain `id IN (...)`, PostgreSQL might scan an index of all rows of the tenant instead.
    """
    wanted = func.unnest(literal(ids, ARRAY(Uuid))).table_valued("id", name="wanted").render_derived()
    each = select(table).where(table.id == cast(wanted.c.id, Uuid)).offset(0).lateral()
    return aliased(table, select(each).select_from(wanted).join(each, true()).subquery())


def page_query(
    query: Select[*tuple[Any, ...]], table: type[JobRow | WebhookDelivery], after: Cursor | None, limit: int
) -> Select[*tuple[Any, ...]]:
    """Return the query of the page after `after`, plus one row, which shows whether another page follows."""
    if after is not None:
        query = query.where(tuple_(table.created_at, table.id) < tuple_(after.created_at, after.id))
    return query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)


def cut_page(rows: Sequence[_Row], limit: int, place: Callable[[_Row], Cursor]) -> Page[_Row]:
    """Return the first `limit` rows, and the place of the last of them if there are more."""
    shown = rows[:limit]
    return Page(shown, place(shown[-1]) if len(rows) > limit else None)
