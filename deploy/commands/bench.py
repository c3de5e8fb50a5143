"""`distildire bench`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import click

_PARTS = {"model": "deploy.bench.model", "service": "deploy.bench.service", "paper": "deploy.bench.paper"}
#: Ten minutes on a CPU, and about the method, not the machine: only where it is asked for.
_USUAL = ("model", "service")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(_PARTS)))
def command(parts: tuple[str, ...]) -> None:
    """Measure on this machine: the full-size MODEL alone, and the SERVICE end to end; both if nothing is named.

    PAPER measures what DistilDIRE saves of DIRE's forty passes, in operations and in seconds.
    """
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    for part in parts or _USUAL:  # each in a process of its own, for its memory and processor time to be its own
        code = subprocess.run([sys.executable, "-P", "-m", _PARTS[part]], check=False).returncode
        if code:
            sys.exit(code)
