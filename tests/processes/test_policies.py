"""Policies in a real analysis worker: which calls a verdict, and that wrong ones are left out."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, update

from shared.tables import Tenant, Worker
from tests.bad_images import photograph, saved
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import Workplace, as_environment, wait_until
from tests.tiny_model import NAME, write_model
from tests.tiny_policy import write_tiny_policies

IMAGE = saved(photograph(), "PNG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A models folder of this test's own."""
    path = tmp_path / "models"
    path.mkdir()
    return write_model(path)


@pytest.fixture
def place(open_place: OpenWorkplace, folder: Path) -> Workplace:
    workplace = open_place(models_dir=folder)
    workplace.redis().flushall()
    return workplace


def published(place: Workplace) -> list[str]:
    """The policies that the worker says it has."""
    with place.database.begin() as session:
        return session.scalars(select(Worker.policies)).one()


def test_a_verdict_is_called_by_the_jobs_policy_or_the_tenants_or_the_card(place: Workplace, folder: Path):
    write_tiny_policies(folder)
    place.start_analysis()
    wait_until(lambda: published(place) == ["all-fake", "doubtful"], 10, place.said)
    plain = place.wait_ended(place.submit(IMAGE)).result
    named = place.wait_ended(place.submit(IMAGE, policy="all-fake")).result
    unknown = place.wait_ended(place.submit(IMAGE, policy="lax"))
    with place.database.begin() as session:
        session.execute(update(Tenant).values(policy="doubtful"))
    tenants = place.wait_ended(place.submit(IMAGE)).result
    probed = place.wait_ended(place.submit(IMAGE, policy="all-fake", stability=True)).result

    assert plain is not None
    assert (plain.policy, plain.threshold) == (None, 0.5)
    assert named is not None
    assert named.policy is not None
    assert (named.prediction, named.policy["name"], named.threshold) == ("FAKE", "all-fake", 0.0)
    raw = plain.probability_fake
    assert named.raw_probability_fake == pytest.approx(raw)
    assert named.probability_fake == pytest.approx(1 / (1 + math.exp(0.5 - math.log(raw / (1 - raw)) / 2)))
    assert tenants is not None
    assert tenants.policy is not None
    assert (tenants.prediction, tenants.policy["name"]) == ("INCONCLUSIVE", "doubtful")
    assert tenants.policy["measured_fpr"] == 0.004
    assert any("no evidence of FAKE" in caveat for caveat in tenants.caveats)
    assert probed is not None
    assert tenants.stability is None
    assert probed.stability is not None
    assert (probed.stability["flip_rate"], probed.stability["passes"]) == (0.0, 5)  # nothing is below a threshold of 0
    assert probed.probability_fake == pytest.approx(named.probability_fake, abs=0.01)
    low, high = probed.stability["probability_min"], probed.stability["probability_max"]
    assert low <= probed.probability_fake <= high
    assert low < high
    assert set(probed.artifacts) == {"dire_map", "heatmap", "overlay"}
    assert (unknown.state, unknown.error_code, unknown.error_retryable) == ("failed", "model_unavailable", True)
    assert "no policy 'lax'" in str(unknown.error_message)


def test_a_worker_leaves_out_a_policy_for_other_weights_says_why_and_works_by_the_others(
    place: Workplace, folder: Path
):
    write_tiny_policies(folder)
    foreign = folder / f"{NAME}.policies" / "doubtful.toml"
    foreign.write_text(re.sub("(?m)^weights_sha256 = .*$", f'weights_sha256 = "{"cd" * 32}"', foreign.read_text()))
    worker = place.start_analysis()

    wait_until(lambda: published(place) == ["all-fake"], 10, place.said)
    called = place.wait_ended(place.submit(IMAGE, policy="all-fake")).result
    without = place.wait_ended(place.submit(IMAGE, policy="doubtful"))

    assert called is not None
    assert called.prediction == "FAKE"
    assert (without.state, without.error_code) == ("failed", "model_unavailable")
    assert worker.said().count('"policy_left_out"') == 1
    assert f"{foreign} was made for the weights cdcd" in worker.said()
    assert "Calibrate anew" in worker.said()

    environment = os.environ | as_environment(place.settings)
    command = [sys.executable, "-m", "deploy.cli", "doctor"]
    doctor = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert doctor.returncode == 1
    assert f"✓ model {NAME}: weights whole" in doctor.stdout
    assert f"✗ policies of {NAME}: The policy {foreign}" in doctor.stdout
