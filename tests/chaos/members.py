"""One process of the deployment: started again when it ends, its ends noted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from deploy.local.processes import ChildProcess, Program
from deploy.local.programs import Part

#: From a process's end to the start of the next: what a supervisor takes to notice.
RESTART_SECONDS = 0.5


@dataclass(frozen=True)
class Ended:
    """A process that ended."""

    name: str
    pid: int
    code: int
    """As `Popen.returncode`: negative is a signal."""
    stop_seconds: float | None
    """How long it took to end after it was told to (SIGTERM); None where it was not."""
    at: float
    """When it was seen, by the clock of the epoch: some hundredths of a second later."""
    alone: bool
    """For an analysis worker: whether no other was ready then."""


@dataclass
class Member:
    """One process that is to be there always."""

    program: Program
    prepare: Callable[[], None]
    is_ready: Callable[[], bool]
    child: ChildProcess | None = None
    ended_at: float | None = None
    stopped_at: float | None = None
    held_down: int = 0
    """How many faults want it to stay away."""

    @classmethod
    def of(cls, part: Part) -> Member:
        """Return the member that runs a part of the product."""
        return cls(part.program, part.prepare, part.is_ready)

    @property
    def pid(self) -> int | None:
        """Of the living process."""
        return self.child.pid if self.child is not None and self.child.running else None

    def start(self) -> None:
        """Start a process; where its disk is full, that is due again in a moment."""
        try:
            self.prepare()
        except OSError:
            self.ended_at = time.monotonic()
            return
        self.child, self.ended_at, self.stopped_at = ChildProcess(self.program), None, None

    def look(self) -> Ended | None:
        """Return the end of the process the first time that it is seen to have ended."""
        if self.child is None or self.ended_at is not None or self.child.running:
            return None
        self.ended_at = time.monotonic()
        took = None if self.stopped_at is None else self.ended_at - self.stopped_at
        code: int = self.child._process.returncode
        return Ended(self.program.name, self.child.pid, code, took, time.time(), alone=False)

    @property
    def due(self) -> bool:
        """Whether it is time to start it again."""
        return self.ended_at is not None and not self.held_down and time.monotonic() > self.ended_at + RESTART_SECONDS


def another(part: Part, name: str, settings: Mapping[str, str]) -> Part:
    """Return a second process of a part, under a name of its own, with other settings."""
    assert part.ready_file is not None
    ready_file = part.ready_file.with_stem(name)
    program = replace(
        part.program,
        name=name,
        command=[word.replace(part.name, name) for word in part.program.command],
        log=part.program.log.with_stem(name),
        environment={**part.program.environment, "DISTILDIRE_READY_FILE": str(ready_file), **settings},
    )
    return replace(part, program=program, ready_file=ready_file)


def running(part: Part, app: str, instead_of: str) -> Part:
    """Return the part with an application of ours in the place of the product's."""
    command = [app if word == instead_of else word for word in part.program.command]
    assert app in command
    return replace(part, program=replace(part.program, command=command))
