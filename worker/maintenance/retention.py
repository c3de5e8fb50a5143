"""Retention: deletes old jobs, their bytes, purged endpoints and objects without a row, and adds usage to its days."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from shared.database.engine import Database
from shared.errors import StoreUnavailableError
from shared.jobs.retention import collect_orphans, delete_old, erase_some
from shared.storage.object_store import ObjectStore
from shared.tenants import usage
from shared.webhooks import endpoints

#: How long a round takes at most; its work is logged afterwards.
_ROUND_SECONDS = 5.0
#: How many threads delete from the store at once.
_ERASERS = 4

_log = structlog.get_logger(__name__)

#: Does a little work and returns what it did, counted by name; an empty counter if nothing is due.
Task = Callable[[], Counter[str]]


class Retention:
    """Works while there is work. Any number of processes may run it at once: each does other work."""

    def __init__(self, database: Database, store: ObjectStore, *, retention_days: int | None) -> None:
        self._database = database
        self._store = store
        self._retention_days = retention_days
        self._stopping = threading.Event()
        self._tasks: list[Task] = [self._delete, self._close, self._erase, self._collect, self._fold]

    def stop(self) -> None:
        """Start no more work. Safe in a signal handler."""
        self._stopping.set()

    def tidy(self) -> None:
        """Do what is due, round after round, until a round finds nothing or `stop` is called."""
        # Usually nothing is due. Calling each task once then costs less than the threads of a round.
        done = sum((self._repeat(task, until=0.0) for task in self._tasks), Counter[str]())
        while done:
            _tell(done)
            done = self._round()

    def _round(self) -> Counter[str]:
        """Run all tasks at the same time, for some seconds at most; return what was done.

        If anything was done, another round is due: what one task does may be work for another.
        """
        until = time.monotonic() + _ROUND_SECONDS
        tasks = [*self._tasks, *[self._erase] * (_ERASERS - 1)]
        with ThreadPoolExecutor(len(tasks), thread_name_prefix="retention") as pool:
            working = [pool.submit(self._repeat, task, until) for task in tasks]
        return sum((each.result() for each in working), Counter[str]())

    def _repeat(self, task: Task, until: float) -> Counter[str]:
        """Repeat a task until nothing is left or the time is over, at least once; return what was done."""
        done: Counter[str] = Counter()
        try:
            while not self._stopping.is_set() and (did := +task()):
                done += did
                if time.monotonic() >= until:
                    break
        except StoreUnavailableError as error:
            #: The object store does not answer, so no bytes are deleted until it does.
            _log.warning("housekeeping_waits", reason=error.message)
        return done

    def _delete(self) -> Counter[str]:
        return Counter(deleted=delete_old(self._database, days=self._retention_days))

    def _close(self) -> Counter[str]:
        return Counter(given_up=endpoints.give_up(self._database), purged=endpoints.purge(self._database))

    def _erase(self) -> Counter[str]:
        return Counter(erased=erase_some(self._database, self._store))

    def _collect(self) -> Counter[str]:
        walked = collect_orphans(self._database, self._store)
        if walked is None:
            return Counter()
        # Each page counts as work, even an empty one: some servers fill whole pages with empty folders.
        return Counter(pages=1, orphans_removed=walked.removed, orphans_kept=walked.kept)

    def _fold(self) -> Counter[str]:
        return Counter(usage_entries=usage.fold(self._database))


def _tell(done: Counter[str]) -> None:
    if told := {name: count for name, count in done.items() if name not in ("pages", "usage_entries")}:
        #: Retention did work: it `deleted` old jobs, `erased` the bytes of deleted ones, gave up webhooks that were
        #: too old or whose endpoint is disabled (`given_up`), `purged` those of deleted endpoints, and removed objects
        #: that belong to no job (`orphans_removed`; `orphans_kept` counts those that the store kept).
        _log.info("tidied", **told)
