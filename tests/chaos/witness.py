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

from tests.chaos.deployment import Deployment
from tests.chaos.evidence import Snapshot

#: A job's row and its result, as one number.
DIGEST = "md5(to_jsonb(jobs)::text || coalesce(to_jsonb(results)::text, ''))"
_TERMINAL = "state NOT IN ('queued', 'running')"
_LOOK_SECONDS = 0.2
_SNAPSHOT_SECONDS = 2.0

register_uuid()


@dataclass
class Dropped:
    """A job whose worker was killed while it carried it."""

    job: UUID
    attempt: int
    stage: str
    killed_at: float
    """By the monotonic clock."""
    alone: bool
    """Whether no other worker was ready then."""
    waited: float | None = None
    """Seconds until another attempt began or the job had ended; None until then."""


@dataclass
class Witness:
    """A thread with a connection of its own; whatever happens to that one, it makes another."""

    deployment: Deployment
    snapshots: list[Snapshot] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    _kills: list[tuple[str, float, bool]] = field(default_factory=list)
    _closed: threading.Event = field(default_factory=threading.Event)
    _snapshot_at: float = 0.0
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def worker_killed(self, pid: int, *, alone: bool) -> None:
        """Follow the jobs that this worker carried; `alone` says that no other was ready."""
        self._kills.append((f"%:{pid}", time.monotonic(), alone))

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
        while not self._closed.wait(_LOOK_SECONDS):
            self._find_dropped(connection)
            self._follow_dropped(connection)
            if time.monotonic() > self._snapshot_at + _SNAPSHOT_SECONDS:
                self._take_snapshots(connection)
                self._snapshot_at = time.monotonic()

    def _find_dropped(self, connection: Connection) -> None:
        while self._kills:
            worker, killed_at, alone = self._kills[0]
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT id, attempt, stage FROM jobs WHERE state = 'running' AND worker LIKE %s", (worker,)
                )
                self.dropped += [
                    Dropped(job, attempt, stage, killed_at, alone) for job, attempt, stage in cursor.fetchall()
                ]
            self._kills.pop(0)

    def _follow_dropped(self, connection: Connection) -> None:
        waiting = {each.job: each for each in self.dropped if each.waited is None}
        if not waiting:
            return
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id, attempt, {_TERMINAL} FROM jobs WHERE id = ANY(%s)", (list(waiting),))
            for job, attempt, ended in cursor.fetchall():
                if ended or attempt > waiting[job].attempt:
                    waiting[job].waited = time.monotonic() - waiting[job].killed_at

    def _take_snapshots(self, connection: Connection) -> None:
        """Note what ended lately: often enough that each is noted several times."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT jobs.id, {DIGEST} FROM jobs LEFT JOIN results ON results.job_id = jobs.id "
                f"WHERE {_TERMINAL} AND finished_at > now() - interval '{3 * _SNAPSHOT_SECONDS} seconds'"
            )
            self.snapshots += [Snapshot(str(job), digest, time.time()) for job, digest in cursor.fetchall()]
