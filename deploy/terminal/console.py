"""What the command prints: results on standard output, the rest on standard error; plain where it is no terminal."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.status import Status
from rich.table import Table

from deploy.local.stack_file import StackDocument

_NAME = "distildire"
#: Columns of output that is no terminal: no cell of a table is broken.
_PIPED_WIDTH = 10_000
_PARTS = {
    "postgres": "PostgreSQL",
    "valkey": "Valkey",
    "s3": "S3 store",
    "schema": "database schema",
    "key": "API key",
    "api": "API",
    "analysis_worker": "analysis worker",
    "webhook_worker": "webhook worker",
    "beat": "scheduler",
}


def output() -> Console:
    """Standard output; where it is no terminal, no line is broken."""
    return _console(stderr=False)


def notes() -> Console:
    """Standard error: progress and remarks."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width, console.soft_wrap = _PIPED_WIDTH, True
    return console


class StackProgress:
    """Shows the stack come up: a line for each part once it answers, and on a terminal what is awaited meanwhile."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, float] = {}
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("Starting …")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.finish()

    def finish(self) -> None:
        """Take the spinner away; later reports are still printed."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def report(self, part: str, status: str) -> None:
        """Take one step's news: `running` already, `starting`, `ready`, `ended`, or a sentence about its end."""
        name = _PARTS.get(part, part)
        if status == "starting":
            self._began[part] = time.monotonic()
        elif status in ("ready", "running"):
            began = self._began.pop(part, None)
            took = "" if began is None else f"{time.monotonic() - began:.1f} s"
            self._console.print(f"  [green]✓[/] {name:<16} [dim]{'runs already' if status == 'running' else took}[/]")
        elif status == "noted":
            self._console.print(f"  [yellow]–[/] {escape(part)}")
        elif status == "stopping":
            self._console.print("Stopping: the API, the workers with what they are doing, the services …")
        elif status != "ended":  # its exit report follows
            self._console.print(f"[bold red]✗[/] {escape(status)}")
        if self._status is not None and self._began:
            self._status.update(f"Starting {', '.join(_PARTS.get(each, each) for each in self._began)} …")


def program() -> str:
    """This command as one types it here: by its name where the shell finds it, else by its path."""
    called, found = Path(sys.argv[0]), shutil.which(_NAME)
    if called.name != _NAME or not called.exists() or (found is not None and called.samefile(found)):
        return _NAME
    return shlex.quote(str(called))


def show_stack(console: Console, data_dir: Path, document: StackDocument, *, owned: bool) -> None:
    """Say where everything is and what to do next."""
    folder = escape(str(data_dir))
    where = "" if data_dir == Path("data") else f" --data-dir {shlex.quote(str(data_dir))}"
    lines = (
        ("API", f"[link={document.api_url}]{document.api_url}[/link]"),
        ("Documentation", f"{document.api_url}/docs"),
        ("API key", f"api_key in {folder}/stack.json [dim](with all other addresses; readable by you alone)[/]"),
        ("Logs", f"{folder}/logs/"),
        ("Try", f"[cyan]{escape(f'{program()} submit{where} --wait PHOTO.jpg')}[/]"),
        ("Stop", "Ctrl-C" if owned else f"[cyan]{escape(f'{program()} down{where}')}[/]"),
    )
    if not console.is_terminal:  # whole lines, to be copied or searched
        console.print("distildire is up")
        for label, value in lines:
            console.print(f"  {label}: {value}")
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for label, value in lines:
        grid.add_row(label, value)
    console.print(Panel(grid, title="[bold green]distildire is up[/]", title_align="left", expand=False))
