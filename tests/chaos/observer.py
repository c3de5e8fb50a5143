"""Looks at the database all the while: notes terminal rows when they appear, and how soon dropped jobs run again."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from uuid import UUID

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  # a class in spite of its name
from psycopg2.extras import register_uuid

from tests.chaos.deployment import ANALYSIS_WORKERS, Deployment
from tests.chaos.evidence import Snapshot
from tests.chaos.supervised import Ended

#: A job's row and its result, as one number.
DIGEST = "md5(to_jsonb(jobs)::text || coalesce(to_jsonb(results)::text, ''))"
_TERMINAL = "state NOT IN ('queued', 'running')"
_LOOK_SECONDS = 0.1
_SNAPSHOT_SECONDS = 2.0

register_uuid()


@dataclass
class Dropped:
    """A job whose worker was killed while it carried it."""

    job: UUID
    attempt: int
    stage: str
    killed_at: float
    """By the clock of the epoch."""
    no_other_ready: bool
    """Whether no other worker was ready then."""
    waited: float | None = None
    """Seconds until another attempt began or the job had ended; None until then."""


@dataclass
class Observer:
    """A thread with a connection of its own; whatever happens to that one, it makes another."""

    deployment: Deployment
    snapshots: list[Snapshot] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    _ends_seen: int = 0
    _closed: threading.Event = field(default_factory=threading.Event)
    _snapshot_at: float = 0.0
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            with (
                contextlib.suppress(psycopg2.Error),  # the next round connects anew
                contextlib.closing(self.deployment.postgres()) as connection,
            ):
                connection.autocommit = True
                self._look(connection)
            self._closed.wait(_LOOK_SECONDS)

    def _look(self, connection: Connection) -> None:
        while not self._closed.is_set():
            self.deployment.news.wait(_LOOK_SECONDS)
            self.deployment.news.clear()
            self._find_dropped(connection)
            self._follow_dropped(connection)
            if time.monotonic() > self._snapshot_at + _SNAPSHOT_SECONDS:
                self._take_snapshots(connection)
                self._snapshot_at = time.monotonic()

    def _find_dropped(self, connection: Connection) -> None:
        """Note what killed workers carried, at once: it may soon run elsewhere."""
        while self._ends_seen < len(self.deployment.ended):
            end = self.deployment.ended[self._ends_seen]
            if end.name in ANALYSIS_WORKERS and end.code < 0:
                self.dropped += _carried_by(connection, end)
            self._ends_seen += 1

    def _follow_dropped(self, connection: Connection) -> None:
        waiting = {each.job: each for each in self.dropped if each.waited is None}
        if not waiting:
            return
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id, attempt, {_TERMINAL} FROM jobs WHERE id = ANY(%s)", (list(waiting),))
            for job, attempt, ended in cursor.fetchall():
                if ended or attempt > waiting[job].attempt:
                    waiting[job].waited = time.time() - waiting[job].killed_at

    def _take_snapshots(self, connection: Connection) -> None:
        """Note what ended lately: often enough that each is noted several times."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT jobs.id, {DIGEST} FROM jobs LEFT JOIN results ON results.job_id = jobs.id "
                f"WHERE {_TERMINAL} AND finished_at > now() - interval '{3 * _SNAPSHOT_SECONDS} seconds'"
            )
            self.snapshots += [Snapshot(str(job), digest, time.time()) for job, digest in cursor.fetchall()]


def _carried_by(connection: Connection, end: Ended) -> list[Dropped]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, attempt, stage FROM jobs WHERE state = 'running' AND worker LIKE %s", (f"%:{end.pid}",)
        )
        return [Dropped(job, attempt, stage, end.at, end.no_other_ready) for job, attempt, stage in cursor.fetchall()]
