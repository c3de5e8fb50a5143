"""A short run of the whole suite: each fault once, under load, and no promise broken."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.chaos.faults import EVERY_FAULT
from tests.chaos.report import ended_unasked, outcome_lines, plan_lines
from tests.chaos.run import run
from tests.chaos.schedule import one_pass, random_plan

SEED = 20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_promise_is_broken_whatever_fails(tmp_path: Path):
    plan = one_pass(SEED, EVERY_FAULT, rest=0.5)
    click.echo("\n".join(plan_lines(plan)))
    outcome = run(tmp_path, plan, seed=SEED, jobs=200, rate=3)
    click.echo("\n".join(outcome_lines(outcome)))
    assert len(outcome.evidence.accepted) >= 200
    assert {done.fault.name for done in outcome.faults} == {fault.name for fault in EVERY_FAULT}
    assert not [post.answer for post in outcome.posts if post.answer in ("500", "502")]
    assert not ended_unasked(outcome)
    assert not outcome.violations


def test_a_plan_follows_from_its_seed_alone():
    assert random_plan(7, 300) == random_plan(7, 300)
    assert random_plan(7, 300) != random_plan(8, 300)
