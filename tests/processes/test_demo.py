"""`distildire demo` with the model that ships."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.commands.demo import SAMPLES
from deploy.local.document import running_stack
from worker.model import find_card
from worker.model.policy import list_policies, read_policy


def test_the_model_that_ships_judges_by_the_policy_that_ships(tmp_path: Path):
    samples = tmp_path / "samples"
    samples.mkdir()
    shutil.copy(SAMPLES / "rocket.jpg", samples)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DISTILDIRE_")}
    command = [sys.executable, "-m", "deploy.cli", "demo", "--samples", str(samples)]

    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "pictures")],
        env={**inherited, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "rocket.jpg: " in done.stdout
    (policy,) = map(read_policy, list_policies(find_card("DISTILDIRE-DEMO", None)))
    measured = f"{policy.evidence.measured_fpr:.2%} of {policy.evidence.real_groups} photographs FAKE"
    assert f"When the policy {policy.name} was made, it called {measured}" in done.stdout
    assert "No policy was chosen" not in done.stdout
    assert running_stack(tmp_path / "data") is None
