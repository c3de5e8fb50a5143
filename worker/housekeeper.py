"""The chore that deletes what is old, erases what was deleted, and collects what nobody refers to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import structlog

from shared import housekeeping
from shared.database import Database
from shared.errors import StoreUnavailableError
from shared.object_store import ObjectStore

#: Seconds for each chore of a round, so that none keeps another waiting, nor a worker that is told to stop.
_CHORE_SECONDS = 1.0

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class Housekeeper:
    """Does a little at a time; any number of processes may, each does other work."""

    def __init__(self, database: Database, store: ObjectStore, *, retention_days: int | None) -> None:
        self._database = database
        self._store = store
        self._retention_days = retention_days

    def tidy(self) -> None:
        """Do what is due, for some seconds at most; what is left waits for the next round."""
        try:
            deleted = housekeeping.delete_old(self._database, days=self._retention_days)
            erased = sum(1 for _ in _repeat(partial(housekeeping.erase_next, self._database, self._store)))
            walked = list(_repeat(partial(housekeeping.collect_orphans, self._database, self._store)))
        except StoreUnavailableError as error:
            _log.warning("housekeeping_waits", reason=error.message)
            return
        orphans, kept = sum(page.removed for page in walked), sum(page.kept for page in walked)
        if deleted or erased or orphans or kept:
            _log.info("tidied", deleted=deleted, erased=erased, orphans_removed=orphans, orphans_kept=kept)


def _repeat(step: Callable[[], _T | None]) -> Iterator[_T]:
    """Yield what `step` returns until it is nothing or the time of a chore is over."""
    until = time.monotonic() + _CHORE_SECONDS
    while time.monotonic() < until and (done := step()):
        yield done
