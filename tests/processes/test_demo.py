"""`distildire demo` with the model that ships."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.commands.stack.demo import SAMPLES
from deploy.local.stack_file import running_stack
from worker.model import find_card
from worker.model.verdicts.policy_files import list_policies, read_policy

TELLS_WHEN_THE_STACK_STOPS = """
from deploy import cli
from deploy.local.stack import Stack

stop = Stack.stop

def tell_and_stop(stack):
    print("THE STACK STOPS", flush=True)
    stop(stack)

Stack.stop = tell_and_stop
cli.main()
"""


def test_the_model_that_ships_judges_by_the_policy_that_ships(tmp_path: Path):
    samples = tmp_path / "samples"
    samples.mkdir()
    shutil.copy(SAMPLES / "rocket.jpg", samples)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DISTILDIRE_")}
    command = [sys.executable, "-c", TELLS_WHEN_THE_STACK_STOPS, "demo", "--samples", str(samples)]
    folders = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "pictures")]

    demo = subprocess.run(
        [*command, *folders],
        env={**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    stdout, marker, afterwards = demo.stdout.partition("THE STACK STOPS")

    assert any(line.startswith("rocket.jpg: ") for line in stdout.splitlines())
    assert (marker, afterwards.strip()) == ("THE STACK STOPS", ""), "all was said before the stack began to stop"
    (policy,) = map(read_policy, list_policies(find_card("DISTILDIRE-DEMO", None)))
    measured = f"{policy.evidence.measured_fpr:.2%} of {policy.evidence.real_groups} photographs as FAKE"
    assert f"When the policy {policy.name} was made, it classified {measured}" in stdout
    assert "No policy was chosen" not in stdout
    assert running_stack(tmp_path / "data") is None
