"""`distildire demo`."""

from __future__ import annotations

import csv
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from deploy.commands.options import data_dir_option
from deploy.image_files import stems
from deploy.local.processes import StackError
from deploy.local.stack import Stack
from deploy.local.stack_file import StackDocument, running_stack
from deploy.submission import Submission
from deploy.terminal.console import StackProgress, notes
from deploy.terminal.streams import print_json, readable
from deploy.terminal.verdicts import Row, VerdictView
from shared.client import Client, SubmittedJob
from shared.database.engine import Database
from shared.domain import (
    DRAWINGS,
    Role,
    WorkerState,
)
from shared.workers.registry import list_workers

SAMPLES = Path(__file__).parents[2] / "samples"
_MANIFEST = "manifest.csv"  # its columns `file` and `kind`, `real` or `fake`, are used here
_KNOWN = {"real": "a photograph", "fake": "generated"}
_SECONDS = 600
_MODEL, _POLICY = "DISTILDIRE-DEMO", "demonstration"  # which are shipped together
_WORKER_SECONDS = 10  # a worker that has just become ready says within a second what it has


@click.command()
@click.option(
    "--samples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SAMPLES,
    help="A folder of images to classify in place of the shipped ones.",
)
@click.option(
    "--output",
    "pictures",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where the pictures go.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document an image on standard output, nothing else.")
@data_dir_option
def command(samples: Path, pictures: Path, as_json: bool, data_dir: Path) -> None:
    """Start the service on this machine, send it the shipped images over HTTP, and show its verdicts.

    A stack that runs in the data directory is used and left running; else one is started, and stopped at the end.
    The demonstration model judges by the policy that comes with it, another as it does for any job without a policy.
    The exit code is 0 if every image has a verdict.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    images, rows = _images(samples)
    pictures.mkdir(parents=True, exist_ok=True)  # now, so that a wrong path fails before the work
    with _stack(data_dir) as (document, check):
        notes().print(f"\nSending {len(images)} images to {document.api_url} …\n")
        with Client(document.api_url, document.api_key) as client:
            with VerdictView(rows, as_json=as_json) as view:
                submission = Submission(client, images, rows, view.refresh)
                submission.send(policy=_policy(document.database_url))
                submission.wait(_SECONDS, check)
            names = dict(zip(images, stems(images, len(".dire_map.png")), strict=True))
            for path, job in submission.jobs():
                _save_pictures(client, job, pictures, names[path])
        _conclude(submission, view, pictures, as_json=as_json)  # before the stack stops, which takes its time
    sys.exit(0 if submission.complete else 1)


def _conclude(submission: Submission, view: VerdictView, pictures: Path, *, as_json: bool) -> None:
    if as_json:
        for document in submission.documents():
            print_json(document)
    view.conclude()
    notes().print(f"\nThe pictures are in {pictures}/: for each image its DIRE map, heatmap and overlay.", markup=False)


def _images(samples: Path) -> tuple[list[Path], list[Row]]:
    """The images of a folder, and their rows with what they are known to be where a manifest says it."""
    manifest = samples / _MANIFEST
    kinds: dict[str, str] = {}
    if manifest.exists():
        with manifest.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            lines = csv.DictReader(file)
            if {"file", "kind"} <= set(lines.fieldnames or ()):
                kinds = {line["file"]: line["kind"] for line in lines}
            else:
                notes().print(f"{manifest} has no columns `file` and `kind`; it is not used.", markup=False)
    images = sorted(path for path in samples.iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    if not images:
        raise click.ClickException(f"There are no images in {samples}.")
    return images, [Row(readable(path.name), _KNOWN.get(kinds.get(path.name, ""), "")) for path in images]


@contextmanager
def _stack(data_dir: Path) -> Iterator[tuple[StackDocument, Callable[[], None]]]:
    """The stack that runs in `data_dir`, or one for the time of the demonstration; and what tells of its crashes."""
    running = running_stack(data_dir)
    if running is not None and not running.has_api:
        raise StackError(f"The API of {data_dir} has ended. `distildire up` starts what is missing.")
    if running is not None:
        notes().print(f"Using the stack that runs in {data_dir}.")
        yield running, lambda: None
        return
    console = notes()
    with StackProgress(console) as progress:
        stack = Stack(data_dir, None, progress.report)

        def check() -> None:
            ended = stack.ended()
            if ended:
                raise StackError("\n".join(child.exit_report() for child in ended))

        try:
            document = stack.ensure()
            progress.finish()
            yield document, check
        finally:
            with console.status("Stopping the stack …"):
                stack.stop()


def _policy(database_url: str) -> str | None:
    """The policy to name: the shipped one where the model that it was made for judges; with others none is known."""
    deadline = time.monotonic() + _WORKER_SECONDS
    with Database(database_url, pool_size=1) as database:
        while time.monotonic() < deadline:
            with database.begin() as session:
                workers = [worker for worker, _ in list_workers(session) if worker.role == Role.ANALYSIS]
            ready = [worker for worker in workers if worker.state == WorkerState.READY]
            if ready:
                return _POLICY if all(each.model == _MODEL and _POLICY in each.policies for each in ready) else None
            time.sleep(0.1)
    return None


def _save_pictures(client: Client, job: SubmittedJob, folder: Path, stem: str) -> None:
    """Write the pictures that the job has, beside each other."""
    for name in DRAWINGS:
        if name in job.artifacts:
            (folder / f"{stem}.{name}.png").write_bytes(client.artifact(job.id, name))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
