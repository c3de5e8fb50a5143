"""`distildire submit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from deploy.commands.options import data_dir_option
from deploy.connection import connect
from deploy.submission import Submission, print_json
from deploy.terminal import notes
from deploy.verdicts import Row, VerdictView
from shared.client import Job, StillRunningError


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Follow the jobs to their verdicts.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="Seconds to wait at most, for room and for verdicts.",
)
@click.option("--model", help="A model's name; what the service runs if left out.")
@click.option("--policy", help="By which policy to call verdicts; your tenant's if left out, or the model's threshold.")
@click.option("--stability", is_flag=True, help="Judge small changes of each image too: five passes in place of one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document an image on standard output, nothing else.")
@data_dir_option
def command(
    images: tuple[Path, ...],
    wait: bool,
    timeout: float,
    model: str | None,
    policy: str | None,
    stability: bool,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Send images to the API.

    The API is that of DISTILDIRE_API_URL with DISTILDIRE_API_KEY, else the stack of the data directory. The exit code
    is 0 if all was accepted (with --wait: has a verdict), 1 if something was refused or failed, 2 for wrong usage.
    """
    rows = [Row(str(path)) for path in images]
    with connect(data_dir, room_patience=timeout) as client, VerdictView(rows, as_json=as_json) as view:
        submission = Submission(client, images, rows, view.refresh)
        submission.send(model=model, policy=policy, stability=stability)
        if wait:
            with suppress(StillRunningError):  # what has ended until then is shown, and the others by their ids
                submission.wait(timeout)
    if as_json:
        print_json(submission.documents())
    elif wait:
        view.conclude()
    else:
        _print_ids(submission.jobs())
    if wait and submission.unfinished():
        notes().print(f"Not ended after {timeout:g} s. These go on; ask for GET /v1/jobs/ID:")
        _print_ids(submission.unfinished(), err=True)
    accepted = len(submission.jobs()) == len(images)
    sys.exit(0 if (submission.complete if wait else accepted) else 1)


def _print_ids(jobs: Sequence[tuple[Path, Job]], *, err: bool = False) -> None:
    for path, job in jobs:
        click.echo(f"{job.id}  {path}", err=err)
