"""How long a client that is refused should wait."""

from __future__ import annotations

import pytest

from shared.jobs.admission import retry_after


@pytest.mark.parametrize(
    ("most", "per_second", "seconds"),
    [
        (1_000, 10, 10),  # a tenth of the limit at that pace
        (1_000, 30, 4),  # in whole seconds
        (1_000, 5_000, 1),  # never at once
        (10_000, 0.1, 60),  # nor for longer than a minute: the pace may change
        (10_000, 0, 60),
        (3, 0.5, 2),  # at least one job
    ],
)
def test_the_wait_is_that_for_a_part_of_the_limit(most: int, per_second: float, seconds: int) -> None:
    assert retry_after(most, per_second) == seconds
