"""A worker whose weights are not the right ones takes no job, whatever their digests say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import Workplace, as_environment
from tests.support.bad_images import photograph, saved
from tests.support.tiny_model import NAME, write_model
from worker.model import verify
from worker.model.weights.digests import digests


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A models folder: the card had its self-test recorded, then its student was exchanged, and its digest stated."""
    folder = tmp_path / "spoilt"
    folder.mkdir()
    write_model(folder)
    verify(NAME, folder, record=True)
    student, card = folder / "student.safetensors", folder / "card.toml"
    state = load_file(student)
    generator = torch.Generator().manual_seed(5)
    last = state["student_head.2.weight"]
    state["student_head.2.weight"] = last + last.std() * torch.randn(last.shape, generator=generator)
    save_file(state, student)
    sha256 = digests(student, ["sha256"])["sha256"]
    card.write_text(re.sub(r"(?m)^\[student\]$", f'[student]\nsha256 = "{sha256}"', card.read_text()))
    return folder


@pytest.fixture
def place(open_place: OpenWorkplace, spoilt: Path) -> Workplace:
    workplace = open_place(models_dir=spoilt)
    workplace.redis().flushall()
    return workplace


def test_a_worker_that_fails_its_self_test_claims_nothing_and_says_why(place: Workplace):
    job_id = place.submit(saved(photograph(), "JPEG"))
    worker = place.start_analysis(ready=False)

    assert worker.wait(180) == os.EX_CONFIG, worker.said()

    assert '"worker_cannot_start"' in worker.said()
    assert re.search(r"fails its self-test in \w+ on cpu: the logit is", worker.said())
    assert not worker.ready_file.exists()
    job = place.job(job_id)
    assert (job.state, job.attempt) == ("queued", 0)

    environment = os.environ | as_environment(place.settings)
    command = [sys.executable, "-m", "deploy.cli", "doctor"]
    doctor = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert doctor.returncode == 1
    assert f"✗ model {NAME}: {NAME} fails its self-test" in doctor.stdout
    assert "each ends before it is ready" in doctor.stdout
