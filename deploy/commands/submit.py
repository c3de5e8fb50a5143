"""`distildire submit`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from deploy.commands.options import data_dir_option
from deploy.connection import connect
from deploy.image_files import gather
from deploy.submission import Submission
from deploy.terminal.console import notes
from deploy.terminal.exits import INTERRUPTED
from deploy.terminal.streams import print_json, readable
from deploy.terminal.unfinished import print_ids, tell_unfinished
from deploy.terminal.verdicts import Row, VerdictView
from shared.client import Client, StillRunningError

_UNKNOWN_SECONDS = 60.0  # after which the command says that the API does not tell whether a worker runs


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=click.Path(path_type=Path))
@click.option("--recursive", "-r", is_flag=True, help="Of a folder, send every image in it and below.")
@click.option("--wait", is_flag=True, help="Follow the jobs to their verdicts.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="Seconds to wait at most, while too many jobs are open and for verdicts.",
)
@click.option("--model", help="A model's name; what the service runs if left out.")
@click.option("--policy", help="By which policy to call verdicts; your tenant's if left out, or the model's threshold.")
@click.option(
    "--stability", is_flag=True, help="Classify small changes of each image too: five passes in place of one."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document an image on standard output, nothing else.")
@data_dir_option
def command(  # noqa: PLR0913  # an option each
    *,
    images: tuple[Path, ...],
    recursive: bool,
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
    is 0 if all was accepted (with --wait: has a verdict), 1 if something was refused or failed, 2 for wrong usage, and
    130 if it was stopped: the jobs that were accepted continue, and it names them.
    """
    files = gather(images, recursive=recursive)
    rows = [Row(readable(path)) for path in files]
    with connect(data_dir, capacity_retry_seconds=timeout) as client, VerdictView(rows, as_json=as_json) as view:
        submission = Submission(client, files, rows, view.refresh)
        try:
            submission.send(model=model, policy=policy, stability=stability)
            if wait:
                with suppress(StillRunningError):  # what has ended until then is shown, and the others by their ids
                    submission.wait(timeout, WorkerWatch(client, submission, view.note).look)
        except (KeyboardInterrupt, Exception) as error:  # whatever happened, the ids must not be lost
            view.close()
            if as_json:
                _print_documents(submission)
            elif wait:
                view.conclude()
            if isinstance(error, KeyboardInterrupt):
                notes().print("Stopped.")
            _tell_after_stop(submission, files, data_dir)
            if isinstance(error, KeyboardInterrupt):
                sys.exit(INTERRUPTED)
            raise
    if as_json:
        _print_documents(submission)
    elif wait:
        view.conclude()
    else:
        print_ids([(job.id, path) for path, job in submission.jobs()])
    if wait and submission.unfinished():
        notes().print(f"Not all jobs ended within {timeout:g} s.")
        tell_unfinished([(job.id, path) for path, job in submission.unfinished()], data_dir)
    accepted = len(submission.jobs()) == len(files)
    sys.exit(0 if (submission.complete if wait else accepted) else 1)


class WorkerWatch:
    """Says once that no analysis worker runs, or that the API does not tell, while every job of a submission waits."""

    def __init__(self, client: Client, submission: Submission, notify: Callable[[str], None]) -> None:
        self._client = client
        self._submission = submission
        self._print = notify
        self._notified = False
        self._began = time.monotonic()

    def look(self) -> None:
        """Look once. Nothing is asked while a job runs or has ended: then a worker runs."""
        if self._notified or not self._submission.all_queued:
            return
        working = self._client.anybody_analyses()
        waited = time.monotonic() - self._began
        if working is False:
            self._notify(
                "No analysis worker is running, so these jobs wait. They continue once one runs; `distildire doctor`, "
                "where the service runs, says what is wrong."
            )
        elif working is None and waited >= _UNKNOWN_SECONDS:
            self._notify(
                f"No job has begun in {waited:.0f} s, and this API does not tell whether an analysis worker is "
                "running. `distildire doctor`, where the service runs, does."
            )

    def _notify(self, message: str) -> None:
        self._notified = True
        self._print(message)


def _print_documents(submission: Submission) -> None:
    for document in submission.documents():
        print_json(document)


def _tell_after_stop(submission: Submission, files: Sequence[Path], data_dir: Path) -> None:
    """Say which images were not sent, which one may have been, and which jobs continue."""
    if unsent := files[submission.tried :]:
        was = "was" if len(unsent) == 1 else "were"
        notes().print(
            f"{len(unsent)} of {len(files)} images {was} not accepted. If {readable(unsent[0])} was on its way, it may "
            "be accepted yet.",
            markup=False,
        )
    tell_unfinished([(job.id, path) for path, job in submission.unfinished()], data_dir)
