"""When which fault begins and how long it lasts: drawn from the seed alone, so that a run can be repeated.

A plan has lanes, each with one fault after the other; what is in different lanes overlaps. Faults are dealt like
cards, so that each comes once before any comes again.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.faults import BESIDE, KILLS, LASTING, LONG, MOMENTS, Fault

#: Seconds between two kills, on average: as many as two cores can start processes again.
_BETWEEN_KILLS = 4.5
_BETWEEN_MOMENTS = 15.0
#: Between the end of one fault and the begin of the next: long enough to see the service recover from some.
_REST = (0.5, 6.0)
#: A run of so many seconds also has the long faults.
_LONG_RUN = 1800.0


@dataclass(frozen=True)
class Planned:
    """One fault of a run."""

    at: float
    """Seconds after the load began."""
    fault: Fault
    seconds: float
    """How long it lasts; 0 for what happens at once."""

    @property
    def until(self) -> float:
        """When it ends."""
        return self.at + self.seconds


Lane = Sequence[Planned]


def random_plan(seed: int, seconds: float, only: Collection[str] = (), *, calm: float = 1.0) -> list[Lane]:
    """Return kills, other moments, what lasts and what is beside it, each in a lane of its own, for so long.

    `only` those, by name.

    Sudden faults are `calm` times as far apart as usual.
    """
    chance = random.Random(seed)
    lasting = [fault for fault in LASTING + LONG if fault.name in only] if only else LASTING
    kills = [fault for fault in KILLS if fault.name in only] if only else KILLS
    moments = [fault for fault in MOMENTS if fault.name in only] if only else MOMENTS
    lanes = [
        _sudden(chance, kills, calm * _BETWEEN_KILLS, seconds),
        _sudden(chance, moments, calm * _BETWEEN_MOMENTS, seconds),
        _one_after_the_other(chance, lasting, seconds),
        _one_after_the_other(chance, [fault for fault in BESIDE if not only or fault.name in only], seconds),
    ]
    if seconds >= _LONG_RUN and not only:
        lanes.append(_spread(chance, LONG, seconds))
    return lanes


def one_pass(seed: int, rest: float) -> list[Lane]:
    """Return each fault once, as short as it can be, in an order drawn from the seed: three lanes, about as long."""
    chance = random.Random(seed)
    lasting, beside = _shortest(chance, LASTING, rest), _shortest(chance, BESIDE, rest)
    sudden = chance.sample(faults := (*KILLS[1:], *MOMENTS), len(faults))
    step = (lasting[-1].until + rest) / (len(sudden) + 1)
    return [lasting, beside, [Planned(step * (number + 1), fault, 0.0) for number, fault in enumerate(sudden)]]


def _shortest(chance: random.Random, faults: Sequence[Fault], rest: float) -> list[Planned]:
    lane: list[Planned] = []
    for fault in chance.sample(faults, len(faults)):
        lane.append(Planned((lane[-1].until if lane else 0) + rest, fault, fault.lasts[0]))
    return lane


def _sudden(chance: random.Random, faults: Sequence[Fault], apart: float, seconds: float) -> Lane:
    lane: list[Planned] = []
    now, deck = chance.expovariate(1 / apart), _dealt(chance, faults)
    while faults and now < seconds:
        lane.append(Planned(now, next(deck), 0.0))
        now += chance.expovariate(1 / apart)
    return lane


def _one_after_the_other(chance: random.Random, faults: Sequence[Fault], seconds: float) -> Lane:
    lane: list[Planned] = []
    now, deck = chance.uniform(*_REST), _dealt(chance, faults)
    while faults and now < seconds:
        fault = next(deck)
        lane.append(Planned(now, fault, chance.uniform(*fault.lasts)))
        now = lane[-1].until + chance.uniform(*_REST)
    return lane


def _spread(chance: random.Random, faults: Sequence[Fault], seconds: float) -> Lane:
    """Each once, with equal rests before, between and after them."""
    rest = (seconds - sum(fault.lasts[0] for fault in faults)) / (len(faults) + 1)
    lane: list[Planned] = []
    now = rest
    for fault in chance.sample(faults, len(faults)):
        lane.append(Planned(now, fault, fault.lasts[0]))
        now = lane[-1].until + rest
    return lane


def _dealt(chance: random.Random, faults: Sequence[Fault]) -> Iterator[Fault]:
    while True:
        yield from chance.sample(faults, len(faults))
