"""Policies in a real analysis worker: which calls a verdict, and that wrong ones are left out."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select, update

from shared.database.tables import JobRow, ResultRow, Tenant, WorkerRow
from shared.domain import PICTURES
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import Workplace, as_environment, wait_until
from tests.support.bad_images import photograph, saved
from tests.support.tiny_model import NAME, write_model
from tests.support.tiny_policy import write_tiny_policies, write_tiny_policy

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
        return session.scalars(select(WorkerRow.policies)).one()


def test_a_verdict_is_called_by_the_jobs_policy_or_the_tenants_or_the_card(place: Workplace, folder: Path):
    write_tiny_policies(folder)
    place.start_analysis()
    wait_until(lambda: published(place) == ["all-fake", "doubtful"], 10, place.said)
    plain = place.wait_ended(place.submit(IMAGE)).result
    named = place.wait_ended(place.submit(IMAGE, policy="all-fake")).result
    unknown = place.submit(IMAGE, policy="lax")
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
    assert set(probed.artifacts) == {*PICTURES}
    with place.database.begin() as session:  # left to a worker that has it: one may come
        assert session.get_one(JobRow, unknown).state == "queued"


def test_pictures_of_flagged_jobs_are_drawn_unless_the_verdict_is_real(place: Workplace, folder: Path):
    write_tiny_policies(folder)
    write_tiny_policy(folder, name="all-real", threshold=1.0, inconclusive_from=None)
    place.start_analysis()
    wait_until(lambda: "all-real" in published(place), 10, place.said)
    jobs = {
        policy: place.submit(IMAGE, policy=policy, flagged_only=True) for policy in ("all-real", "all-fake", "doubtful")
    }
    results = {policy: place.wait_ended(job_id).result for policy, job_id in jobs.items()}
    found = {
        policy: (result.prediction, {*result.artifacts}) for policy, result in results.items() if result is not None
    }
    assert found == {
        "all-real": ("REAL", set()),
        "all-fake": ("FAKE", {*PICTURES}),
        "doubtful": ("INCONCLUSIVE", {*PICTURES}),
    }
    with place.database.begin() as session:  # the jobs' rows know the predictions too, for lists
        assert session.scalars(select(JobRow.prediction)).all() == [
            session.scalars(select(ResultRow.prediction).where(ResultRow.job_id == job_id)).one()
            for job_id in session.scalars(select(JobRow.id))
        ]


def test_an_image_without_content_is_inconclusive_under_a_band_and_its_heatmap_is_flat(place: Workplace, folder: Path):
    write_tiny_policy(folder, name="banded", threshold=1e-6, inconclusive_from=0.0)
    place.start_analysis()
    wait_until(lambda: published(place) == ["banded"], 10, place.said)
    blank = saved(Image.new("RGB", (120, 80), "white"), "PNG")
    banded, plain, full = (
        place.wait_ended(place.submit(image, policy=policy)).result
        for image, policy in ((blank, "banded"), (blank, None), (IMAGE, "banded"))
    )
    assert banded is not None
    assert plain is not None
    assert full is not None
    assert (banded.prediction, full.prediction) == ("INCONCLUSIVE", "FAKE")
    assert plain.prediction == ("FAKE" if plain.probability_fake >= 0.5 else "REAL")
    for result in (banded, plain):
        assert any(caveat.startswith("The image has almost no content (at least seven") for caveat in result.caveats)
    assert not any("no content" in caveat for caveat in full.caveats)
    heat = np.asarray(Image.open(io.BytesIO(place.store.get(plain.artifacts["heatmap"]["key"]))).convert("RGB"))
    assert len(np.unique(heat.reshape(-1, 3), axis=0)) == 2, "one colour, and the grey of what was not seen"
    mean = np.frombuffer(plain.feature_mean, "<f4")
    assert np.ptp(mean) > 0.01 * np.abs(mean).max(), "what the network answered is kept as it is"


def test_a_worker_leaves_out_a_policy_for_other_weights_says_why_and_works_by_the_others(
    place: Workplace, folder: Path
):
    write_tiny_policies(folder)
    foreign = folder / f"{NAME}.policies" / "doubtful.toml"
    foreign.write_text(re.sub("(?m)^weights_sha256 = .*$", f'weights_sha256 = "{"cd" * 32}"', foreign.read_text()))
    worker = place.start_analysis()

    wait_until(lambda: published(place) == ["all-fake"], 10, place.said)
    without = place.submit(IMAGE, policy="doubtful")
    called = place.wait_ended(place.submit(IMAGE, policy="all-fake")).result

    assert called is not None
    assert called.prediction == "FAKE"
    with place.database.begin() as session:
        assert session.get_one(JobRow, without).state == "queued"
    assert worker.said().count('"policy_left_out"') == 1
    assert f"{foreign} was made for the weights cdcd" in worker.said()
    assert "Calibrate again" in worker.said()

    environment = os.environ | as_environment(place.settings)
    command = [sys.executable, "-m", "deploy.cli", "doctor"]
    doctor = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert doctor.returncode == 1
    assert f"✓ model {NAME}: weights whole" in doctor.stdout
    assert f"✗ policies of {NAME}: The policy {foreign}" in doctor.stdout
