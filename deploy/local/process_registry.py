"""The processes that the stack of a data directory has started, so that a later command knows them from others."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from deploy.local.process_identity import ProcessIdentity, identity_of
from deploy.local.processes import StackError
from deploy.local.state_files import read_damageable, read_if_whole, write_private
from shared.workers.procfs import lock_holder

_FILE = "processes.json"
_LEFTOVER_SECONDS = 15  # processes whose parent was killed are ending by themselves; this is how long they may take


class DataDirInUseError(StackError):
    """Another process owns the stack of this data directory."""


class ProcessRegistry:
    """The identities of the started processes by name, in `processes.json`, in the order of their start."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE

    def read(self) -> dict[str, ProcessIdentity]:
        """All that was recorded and not forgotten; each may have ended since. Nothing where the file is damaged."""
        return read_if_whole(self._path, identities) or {}

    def read_strictly(self) -> dict[str, ProcessIdentity]:
        """Return the same; raise `DamagedError` where nobody can tell what was recorded."""
        return read_damageable(self._path, identities) or {}

    def record(self, name: str, identity: ProcessIdentity) -> None:
        """Remember that `name` was started as `identity`."""
        others = {key: value for key, value in self.read().items() if key != name}
        self.write(others | {name: identity})

    def forget(self, name: str) -> None:
        """Forget `name`: it was stopped."""
        with suppress(
            OSError
        ):  # on a full disk the entry stays, which is harmless: its process has ended and matches no other
            self.write({key: value for key, value in self.read().items() if key != name})

    def end_leftovers(self) -> list[str]:
        """End what an owner that was killed left running, last started first; return the names of those.

        Only call this while holding the data directory's lock.
        """
        alive = {name: identity for name, identity in self.read().items() if identity.alive}
        for identity in reversed(alive.values()):
            identity.end(signal.SIGTERM, _LEFTOVER_SECONDS)
        self.write({})
        return list(alive)

    def write(self, known: Mapping[str, ProcessIdentity]) -> None:
        """Remember these, and no others."""
        content = {name: {"pid": each.pid, "started": each.started} for name, each in known.items()}
        write_private(self._path, json.dumps(content, indent=2) + "\n")


def identities(content: Any) -> dict[str, ProcessIdentity]:
    """Return what such a file tells; raise for what is none as `identity_of` does."""
    return {name: identity_of(fields) for name, fields in content.items()}


class FileLock:
    """A lock that the kernel lets go of when its holder ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self, *, wait: bool = False) -> None:
        """Take the lock; raise `DataDirInUseError` if another process has it, unless told to `wait` for it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            os.close(descriptor)
            raise DataDirInUseError(self._in_use_message()) from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _in_use_message(self) -> str:
        place = self._path.parent
        pid = lock_holder(self._path)
        if pid is None:
            return f"{place} is in use by another process."
        return (
            f"{place} is in use by process {pid}. `distildire down` stops a stack; end anything else with `kill {pid}`."
        )

    def release(self) -> None:
        """Let go; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
