"""For how long a job is left alone whose worker died."""

from __future__ import annotations

import pytest

from worker.runtime import suspect_wait


@pytest.mark.parametrize(("start", "wait"), [(4, 6), (10, 15), (60, 15), (None, 15)])
def test_wait_is_what_a_start_takes_and_lets_three_deaths_be_over_within_a_minute(start: float | None, wait: float):
    assert suspect_wait(start).total_seconds() == wait
