"""The analysis worker's application with points at which it can be told to die: each stage, and the moment after.

A job that a worker died with before is spared: it runs alone now, so a death would rightly count against it.
"""

from __future__ import annotations

import sys
from typing import Any

from shared.database.engine import Database
from shared.domain import AttemptId, ClaimedJob, JobResult, Stage
from shared.jobs import lifecycle
from tests.chaos.crash_points import DECIDED, crash_if_requested
from worker.__main__ import main
from worker.jobs.attempt import RunningAttempt
from worker.tasks import app

__all__ = ["app"]

_begin, _note, _succeed = RunningAttempt.__init__, RunningAttempt.note, lifecycle.succeed


def _begin_or_die(self: RunningAttempt, job: ClaimedJob, *rest: Any) -> None:
    _begin(self, job, *rest)
    _die_in(self, Stage.FETCHING)


def _note_or_die(self: RunningAttempt, stage: Stage) -> None:
    _note(self, stage)
    _die_in(self, stage)


def _die_in(attempt: RunningAttempt, stage: Stage) -> None:
    if not attempt.job.suspect:
        crash_if_requested(stage)


def _succeed_and_die(database: Database, attempt_id: AttemptId, result: JobResult) -> bool:
    told = _succeed(database, attempt_id, result)
    crash_if_requested(DECIDED)
    return told


RunningAttempt.__init__ = _begin_or_die  # type: ignore[method-assign, assignment]
RunningAttempt.note = _note_or_die  # type: ignore[method-assign]
lifecycle.succeed = _succeed_and_die

if __name__ == "__main__":
    main(sys.argv[1:])
