"""How the command ends when it is interrupted, or by an error that no code expects: exit codes and last words."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from deploy.terminal.streams import one_line

#: The exit codes beside 0, 1 (something was refused or failed) and 2 (wrong usage).
INTERRUPTED, UNEXPECTED = 130, 70


@contextmanager
def resumable(kept_in: Path) -> Iterator[None]:
    """Say on Ctrl-C which of the block's work is kept and how to continue, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nStopped. The results so far are kept in {kept_in}; the same command continues them.", err=True)
        sys.exit(INTERRUPTED)


def report_unexpected(error: BaseException) -> None:
    """Append the traceback to a log, and say in one line what the error was and where the log is."""
    log = _write(error)
    where = f" The traceback is in {log}." if log else ""
    click.echo(f"Error: an unexpected error ended the command ({one_line(error)}).{where} Please report it.", err=True)


def _write(error: BaseException) -> Path | None:
    """Append to a file that only its owner can read; return None where none can be written."""
    when, command = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", " ".join(sys.argv[:2])
    text = "".join([f"{when} {command}\n", *traceback.format_exception(error), "\n"])
    places: tuple[Callable[[], str | Path], ...] = (_cache, tempfile.gettempdir)
    for place in places:
        try:
            log = Path(place(), f"distildire-{os.geteuid()}", "errors.log")
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = log.parent.lstat()
            if folder.st_uid != os.geteuid() or not stat.S_ISDIR(folder.st_mode):  # in /tmp anybody may have made it
                continue
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except (OSError, RuntimeError):  # RuntimeError: this user has no home
            continue
        return log
    return None


def _cache() -> Path:
    return Path("~/.cache").expanduser()
