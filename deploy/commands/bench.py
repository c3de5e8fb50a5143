"""`distildire bench`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import click

_PARTS = {"model": "deploy.bench.model", "service": "deploy.bench.service"}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(_PARTS)))
def command(parts: tuple[str, ...]) -> None:
    """Measure on this machine: the full-size MODEL alone, and the SERVICE end to end; both if neither is named."""
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    for part in parts or tuple(_PARTS):  # each in a process of its own, for its memory and processor time to be its own
        code = subprocess.run([sys.executable, "-P", "-m", _PARTS[part]], check=False).returncode
        if code:
            sys.exit(code)
