"""The walk at the top of docs/training.md as a reader would paste it, from pictures to a service that judges."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from deploy.local.stack_file import running_stack
from tests.support.ports import free_ports
from worker.model import load_model

_REPOSITORY = Path(__file__).parents[2]
_SERVICE = "try/service"
_SECONDS = 600


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; a service that the walk left there is stopped."""
    yield tmp_path
    if running_stack(tmp_path / _SERVICE) is not None:
        _shell(f"distildire down --data-dir {_SERVICE}", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(_SECONDS)
def test_the_walk_of_the_page_ends_with_verdicts_by_its_own_model_and_policy(reader: Path):
    page = (_REPOSITORY / "docs" / "training.md").read_text()
    walk = re.search(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert walk is not None
    assert "--port 8010" in walk[1]

    done = _shell(walk[1].replace("8010", str(free_ports(1)[0])), reader)

    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (reader / "models").glob("MINE.*")} >= {"MINE.toml", "MINE.student.safetensors"}
    assert (reader / "models" / "MINE.policies" / "balanced.toml").exists()
    report = json.loads((reader / "evaluation" / "report.json").read_text())
    assert report["controls"]["labels_leak"] is False, "the page's own pictures give nothing away by their files"
    assert "give their labels away" not in done.stdout + (reader / "evaluation" / "report.html").read_text()
    assert (reader / "evaluation" / "scores.csv").exists()
    assert re.search(r"^try/fake-1\.png: FAKE ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^try/real-1\.png: REAL ", done.stdout, re.MULTILINE), done.stdout
    assert "When the policy balanced was made" in done.stdout
    assert "No policy was chosen" not in done.stdout  # of neither
    assert running_stack(reader / _SERVICE) is None
    model = load_model("MINE", device="cpu", models_dir=reader / "models")
    scores = model.analyze(reader / "try" / "fake-1.png")["heatmap_scores"]
    assert len(set(chain.from_iterable(scores))) > 100  # its pictures show something


def _shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it there, to its first error, with the commands of this interpreter and the modules of this repository."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DISTILDIRE_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env={**inherited, "PATH": path, "PYTHONPATH": str(_REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
