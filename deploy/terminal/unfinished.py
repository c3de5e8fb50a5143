"""What a command says at its end of jobs that have not ended: they continue without it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from deploy.terminal.console import notes, program
from deploy.terminal.streams import readable


def tell_unfinished(jobs: Sequence[tuple[str, object]], data_dir: Path) -> None:
    """Name jobs that continue, by id and what each is of, and say how to follow and how to cancel them."""
    if not jobs:
        return
    where = "" if data_dir == Path("data") else f" --data-dir {shlex.quote(str(data_dir))}"
    command = f"{program()} jobs"
    notes().print(
        f"These jobs continue. Follow them with `{command} wait{where} ID…`, cancel them with "
        f"`{command} cancel{where} ID…`:",
        markup=False,
        soft_wrap=True,
    )
    print_ids(jobs, err=True)


def print_ids(jobs: Sequence[tuple[str, object]], *, err: bool = False) -> None:
    """Print each job's id with what it is of."""
    for job_id, of in jobs:
        click.echo(f"{job_id}  {readable(of)}".rstrip(), err=err)
