"""The tasks that delete what is old, erase what was deleted, close endpoints, and collect what nobody refers to."""

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
from shared.webhooks import endpoints

#: A round takes so long at most; then it is told what was done.
_ROUND_SECONDS = 5.0
#: The store is waited for by so many threads at once.
_ERASERS = 4

_log = structlog.get_logger(__name__)

#: Does a little and returns what it did, by name; nothing where nothing is to be done.
Task = Callable[[], Counter[str]]


class Retention:
    """Works while there is work; any number of processes may, each does other."""

    def __init__(self, database: Database, store: ObjectStore, *, retention_days: int | None) -> None:
        self._database = database
        self._store = store
        self._retention_days = retention_days
        self._stopping = threading.Event()
        self._tasks: list[Task] = [self._delete, self._close, self._erase, self._collect]

    def stop(self) -> None:
        """Begin nothing more. Safe in a signal handler."""
        self._stopping.set()

    def tidy(self) -> None:
        """Do what is due, round after round, until one finds nothing or it is told to stop."""
        # Mostly there is nothing, and one look at each task costs less than a round's threads.
        done = sum((self._repeat(task, until=0.0) for task in self._tasks), Counter[str]())
        while done:
            _tell(done)
            done = self._round()

    def _round(self) -> Counter[str]:
        """Do all tasks beside each other, for some seconds at most; return what was done.

        Where something was there may be more: what one task does is another's work.
        """
        until = time.monotonic() + _ROUND_SECONDS
        tasks = [*self._tasks, *[self._erase] * (_ERASERS - 1)]
        with ThreadPoolExecutor(len(tasks), thread_name_prefix="retention") as pool:
            working = [pool.submit(self._repeat, task, until) for task in tasks]
        return sum((each.result() for each in working), Counter[str]())

    def _repeat(self, task: Task, until: float) -> Counter[str]:
        """Do a task until nothing is left or the time is over, once at least; return what was done."""
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
        # A page is work, whatever was on it: some servers list folders that are empty, and fill pages with them.
        return Counter(pages=1, orphans_removed=walked.removed, orphans_kept=walked.kept)


def _tell(done: Counter[str]) -> None:
    if told := {name: count for name, count in done.items() if name != "pages"}:
        #: Housekeeping worked: old jobs `deleted`, deleted jobs whose bytes were `erased`, webhooks `given_up` that
        #: were too old or whose endpoint is disabled, those `purged` with a deleted endpoint, objects of no job that
        #: were removed (`orphans_removed`) or that the store kept (`orphans_kept`).
        _log.info("tidied", **told)
