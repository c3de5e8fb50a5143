"""Getting a model's files onto this machine: over the network, or from files brought by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from deploy.terminal.console import notes
from deploy.terminal.models import card_files, license_words
from worker.model.cards.registry import InstalledCard, ModelError
from worker.model.cards.schema import WeightsFile
from worker.model.weights.digests import identify
from worker.model.weights.download import FetchError, fetch
from worker.model.weights.installation import place, recognise


def fetch_files(installed: InstalledCard, folder: Path, *, accept_license: bool) -> list[Path]:
    """Download what is missing of a model, once its licence was acknowledged; return what appeared.

    Raises:
        ModelError: a file could not be downloaded; the message says how to get it by hand.
    """
    missing = [file for file in card_files(installed).values() if not _is_there(installed, file)]
    if not missing:
        return []
    for file in missing:
        if not file.urls:
            raise ModelError(
                f"The card {installed.path} names no URL for {file.weights}. Obtain it from the model's author, and "
                f"run `distildire models import {installed.card.name} FILE`."
            )
    _acknowledge(installed, missing, accepted=accept_license)
    fetched = []
    for number, file in enumerate(missing):
        target = folder / file.weights
        with _bar(file.weights) as show:
            try:
                fetch(file, target, show)
            except FetchError as error:
                raise FetchError(f"{error.message}\n\n{by_hand(installed, missing[number:])}") from error
        fetched.append(target)
    return fetched


def import_files(installed: InstalledCard, folder: Path, paths: Sequence[Path], *, link: bool) -> list[Path]:
    """Put weights files, brought by hand, where the card expects them; return these paths.

    Raises:
        ModelError: one of them is not a file of the card; then nothing was imported.
    """
    total = sum(path.stat().st_size for path in paths)
    with _bar("recognising") as show:
        files = recognise(paths, installed, folder, _counted(show, total))
    for file in files:
        with _bar(file.stated.weights) as show:
            place(file, _counted(show, file.source.stat().st_size), link=link)
    return [file.target for file in files]


def by_hand(installed: InstalledCard, files: Sequence[WeightsFile]) -> str:
    """Say how to get files onto a machine without a way to where they are published."""
    names = [Path(file.weights).name for file in files]
    downloads = "\n".join(
        f"  curl --location --fail --output {name} {file.urls[0]}" for name, file in zip(names, files, strict=True)
    )
    return (
        "The same command goes on from what has come. If this machine has no way there, run on one that has\n"
        f"{downloads}\nbring the files here, and run\n"
        f"  distildire models import {installed.card.name} {' '.join(names)}"
    )


def _is_there(installed: InstalledCard, file: WeightsFile) -> bool:
    path = installed.find(file)
    if path is None:
        return False
    try:
        identify(path, file)
    except ModelError as error:
        raise ModelError(f"{error.message} Fetching replaces no file: remove {path} first.") from error
    return True


def _acknowledge(installed: InstalledCard, files: Sequence[WeightsFile], *, accepted: bool) -> None:
    """Show the licences, and go on only once the user has agreed to them."""
    console = notes()
    for file in files:
        console.print(f"{escape(file.weights)}: licence {license_words(file.license or installed.card.license)}")
    if accepted:
        return
    if not sys.stdin.isatty():
        raise ModelError("Nothing was downloaded: say with --accept-license that you keep to the licences.")
    click.confirm("Do you keep to these licences?", abort=True, err=True)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on a terminal while the block runs; yield what takes the bytes done and, where known, in all."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = notes()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(name), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _counted(show: Callable[[int, int | None], None], total: int) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        show(done, total)

    return add
