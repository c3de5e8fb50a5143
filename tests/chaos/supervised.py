"""One process of the deployment: it is started again when it ends, and each end is noted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from deploy.local.processes import ChildProcess, Program
from deploy.local.programs import StackProcess

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
    no_other_ready: bool
    """For an analysis worker: whether no other was ready then."""


@dataclass
class SupervisedProcess:
    """One process that is to be there always."""

    program: Program
    prepare: Callable[[], None]
    is_ready: Callable[[], bool]
    child: ChildProcess | None = None
    ended_at: float | None = None
    stopped_at: float | None = None
    kept_stopped: int = 0
    """How many faults want it to stay away."""

    @classmethod
    def of(cls, process: StackProcess) -> SupervisedProcess:
        """Return the supervised form of a process of the stack."""
        return cls(process.program, process.prepare, process.is_ready)

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
        return Ended(self.program.name, self.child.pid, self.child.wait(), took, time.time(), no_other_ready=False)

    @property
    def due(self) -> bool:
        """Whether it is time to start it again."""
        return (
            self.ended_at is not None and not self.kept_stopped and time.monotonic() > self.ended_at + RESTART_SECONDS
        )


def another(process: StackProcess, name: str, settings: Mapping[str, str]) -> StackProcess:
    """Return a second process like this one, under a name of its own, with other settings."""
    assert process.ready_file is not None
    ready_file = process.ready_file.with_stem(name)
    program = replace(
        process.program,
        name=name,
        command=[word.replace(process.name, name) for word in process.program.command],
        log=process.program.log.with_stem(name),
        environment={**process.program.environment, "DISTILDIRE_READY_FILE": str(ready_file), **settings},
    )
    return replace(process, program=program, ready_file=ready_file)


def running(process: StackProcess, app: str, instead_of: str) -> StackProcess:
    """Return the process with an application of ours in the place of the product's."""
    command = [app if word == instead_of else word for word in process.program.command]
    assert app in command
    return replace(process, program=replace(process.program, command=command))
