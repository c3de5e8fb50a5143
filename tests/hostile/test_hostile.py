"""Every hostile file through the running service, where the corpora are in the cache: `make hostile` fetches them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import old_pillow
from tests.hostile.corpora import cache_folder, missing

_ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", [(), ("--pillow", old_pillow.VERSION)], ids=["pillow", "pillow with known holes"])
def test_no_hostile_file_breaks_a_promise(options: tuple[str, ...]):
    if missing(cache_folder()):
        pytest.skip(f"{cache_folder()} lacks corpora: `python -m tests.hostile --fetch-only` fetches them")
    command = [sys.executable, "-m", "tests.hostile", "--untimed", *options]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
