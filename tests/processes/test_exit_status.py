"""The status with which a worker ends that cannot start, started as it is deployed (docs/operations.md)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_model import NAME, write_model


@pytest.mark.parametrize(
    ("model", "status", "reason"),
    [("ANOTHER", 1, "There is no model named"), (NAME, os.EX_CONFIG, "sha256")],
    ids=["no such model", "altered weights"],
)
def test_a_worker_says_whether_another_start_would_help(tmp_path: Path, model: str, status: int, reason: str) -> None:
    write_model(tmp_path)
    card = tmp_path / "card.toml"
    card.write_text(re.sub(r"(?m)^\[student\]$", f'[student]\nsha256 = "{"0" * 64}"', card.read_text()))
    nowhere = {
        "DATABASE_URL": "postgresql://user:password@127.0.0.1:1/name",
        "REDIS_URL": "redis://:password@127.0.0.1:1/0",
        "S3_ENDPOINT": "http://127.0.0.1:1",
        "S3_ACCESS_KEY": "access",
        "S3_SECRET_KEY": "secret",
        "MODEL": model,
        "MODELS_DIR": str(tmp_path),
    }
    worker = subprocess.run(
        [sys.executable, "-P", "-m", "worker", "analysis"],
        env={"PATH": os.environ["PATH"], **{f"DISTILDIRE_{name}": value for name, value in nowhere.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"worker_cannot_start"' in worker.stderr
    assert reason in worker.stderr
    assert worker.returncode == status
