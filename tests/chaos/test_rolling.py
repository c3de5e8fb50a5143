"""A few rolling restarts under load: every process ends in order, and nobody notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.measures import Target
from tests.chaos.rolling import run

RESTARTS = 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rolling_restarts_burn_no_attempt_and_repeat_nothing(tmp_path: Path):
    lines = list(run(tmp_path, seed=3, restarts=RESTARTS))
    assert not [line for line in lines if isinstance(line, Target) and not line.kept], "\n".join(map(str, lines))
