"""When a worker is taken for wedged: never while it has a reason not to work."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shared.errors import DatabaseUnavailableError
from worker.process.watchdog import Watchdog

LIMIT_TICKS = 5


@dataclass
class Scene:
    """What the watchdog sees of a worker that does nothing although it could."""

    idle: bool = True
    taken: int = 0
    waits: bool = True
    database_answers: bool = True
    ended: int = 0

    def watchdog(self) -> Watchdog:
        return Watchdog(
            idle=lambda: self.idle,
            taken=lambda: self.taken,
            waiting=self._ask,
            limit_seconds=LIMIT_TICKS * Watchdog.seconds,
            end=self._end,
        )

    def _ask(self) -> bool:
        if not self.database_answers:
            raise DatabaseUnavailableError
        return self.waits

    def _end(self) -> None:
        self.ended += 1


def look(watchdog: Watchdog, times: int) -> None:
    for _ in range(times):
        watchdog.look()


def test_a_worker_that_takes_nothing_while_work_waits_is_ended():
    scene = Scene()
    watchdog = scene.watchdog()
    look(watchdog, LIMIT_TICKS - 1)
    before = scene.ended
    watchdog.look()
    assert (before, scene.ended) == (0, 1)


def test_one_thing_taken_is_a_sign_of_life():
    scene = Scene()
    watchdog = scene.watchdog()
    look(watchdog, LIMIT_TICKS - 1)
    scene.taken += 1
    look(watchdog, LIMIT_TICKS)
    assert not scene.ended
    watchdog.look()
    assert scene.ended


@pytest.mark.parametrize("reason", [{"idle": False}, {"waits": False}])
def test_a_worker_with_a_reason_not_to_work_is_left_alone(reason: dict[str, bool]):
    scene = Scene(**reason)
    watchdog = scene.watchdog()
    look(watchdog, 3 * LIMIT_TICKS)
    assert not scene.ended


def test_while_the_database_is_away_nobody_is_blamed():
    scene = Scene()
    watchdog = scene.watchdog()
    look(watchdog, LIMIT_TICKS - 1)
    scene.database_answers = False
    with pytest.raises(DatabaseUnavailableError):
        watchdog.look()
    scene.database_answers = True
    look(watchdog, LIMIT_TICKS - 1)
    assert not scene.ended
