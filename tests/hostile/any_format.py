"""Every file in the sandbox with every reader that Pillow has: what holds where decoders do crash and loop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from shared.errors import JobError
from tests.hostile.corpora import HostileFile
from tests.hostile.refusals import default_sandbox
from tests.hostile.run import Ending
from worker.sandbox.sandbox import Sandbox


class AnyFormatSandbox(Sandbox):
    """A sandbox that lets every file in."""

    entry = ("-m", "tests.hostile.any_format_child")

    def ending(self, file: HostileFile) -> Ending:
        """Open a file and tell what came of it, as of a job."""
        began = time.monotonic()
        try:
            # Whatever it is, its child calls it a PNG.
            self._open(file.data, "image/png", 64).close()
        except JobError as error:
            return Ending(file, False, error.code, time.monotonic() - began, error.message, 1)
        return Ending(file, False, "succeeded", time.monotonic() - began, "", 1)


def open_all(files: Iterable[HostileFile]) -> list[Ending]:
    """Open every file, as many at a time as there are cores."""
    with default_sandbox(AnyFormatSandbox) as sandbox, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(sandbox.ending, files))
