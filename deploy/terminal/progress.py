"""Progress of work that goes over images several times, with an estimate of what is left."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.terminal.console import notes


class ImageProgress:
    """A bar on standard error; where that is no terminal, a line for each pass."""

    def __init__(self, total: int) -> None:
        self._console = notes()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def follow(self, name: str) -> Callable[[], object]:
        """Begin a pass of that name; what is returned is to be called after each image."""
        if not self._console.is_terminal:
            self._console.print(f"{name} …", markup=False)
        self._progress.update(self._task, description=name)
        return lambda: self._progress.advance(self._task)
