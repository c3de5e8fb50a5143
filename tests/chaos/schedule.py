"""When which fault begins and how long it lasts: drawn from the seed alone, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.chaos.faults import CATALOGUE, KILLS, LONG, Fault

#: Kills come by themselves, beside the other faults, about so many seconds apart.
_BETWEEN_KILLS = 4.0
#: Between the end of one fault and the begin of the next: long enough to see the service recover from some.
_REST = (0.5, 6.0)


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


def random_plan(seed: int, seconds: float, only: Collection[str] = ()) -> list[Planned]:
    """Return faults one after the other for so long, and kills at any moment beside them; `only` those, by name."""
    chance = random.Random(seed)
    lasting = [fault for fault in CATALOGUE + LONG if fault.name in only] if only else CATALOGUE
    kills = [fault for fault in KILLS if fault.name in only] if only else KILLS
    plan: list[Planned] = []
    now = chance.uniform(*_REST)
    while lasting and now < seconds:
        fault = chance.choice(lasting)
        plan.append(Planned(now, fault, chance.uniform(*fault.lasts)))
        now = plan[-1].until + chance.uniform(*_REST)
    now = chance.expovariate(1 / _BETWEEN_KILLS)
    while kills and now < seconds:
        plan.append(Planned(now, chance.choice(kills), 0.0))
        now += chance.expovariate(1 / _BETWEEN_KILLS)
    return sorted(plan, key=lambda planned: planned.at)


def one_pass(seed: int, faults: Sequence[Fault], rest: float) -> list[Planned]:
    """Return each fault once, as short as it can be, in an order drawn from the seed, `rest` seconds apart."""
    chance = random.Random(seed)
    plan: list[Planned] = []
    now = rest
    for fault in chance.sample(faults, len(faults)):
        plan.append(Planned(now, fault, fault.lasts[0]))
        now = plan[-1].until + rest
    return plan
