"""A short run of the whole suite: each fault once, under load, and no promise broken."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.chaos.experiment import loaded
from tests.chaos.faults import BESIDE, KILLS, LASTING, LONG, MOMENTS
from tests.chaos.report import ended_unasked, fault_lines, outcome_lines, plan_lines, verdict_lines
from tests.chaos.run import conclude, missed, run_faults
from tests.chaos.schedule import one_pass, random_plan

SEED = 20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_promise_is_broken_whatever_fails(tmp_path: Path):
    plan = one_pass(SEED, rest=0.5)
    click.echo("\n".join(plan_lines(plan)))
    with loaded(tmp_path, seed=SEED, rate=3) as experiment:
        outcome = conclude(experiment, run_faults(experiment, plan, timeout=60), jobs=200)
    click.echo("\n".join([*outcome_lines(outcome), *fault_lines(outcome), *verdict_lines(outcome)]))
    assert len(outcome.evidence.accepted) >= 200
    assert not [name for name in missed(plan, outcome.faults) if "disk full" not in name]  # only root has small disks
    assert not [post.answer for post in outcome.posts if post.answer in ("500", "502")]
    assert not ended_unasked(outcome)
    assert not outcome.violations


def test_a_plan_follows_from_its_seed_alone():
    assert random_plan(7, 300) == random_plan(7, 300)
    assert random_plan(7, 300) != random_plan(8, 300)


def test_a_long_run_has_every_fault():
    planned = {planned.fault for lane in random_plan(7, 2100) for planned in lane}
    assert planned == {*KILLS, *MOMENTS, *LASTING, *BESIDE, *LONG}
