"""Sending images to an API and following them to their verdicts; what `submit` and `demo` have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.terminal.verdicts import Row
from shared.client import ApiRefusedError, Client, StillRunningError, SubmittedJob

_CHECK_SECONDS = 5.0  # how often a command that waits also calls `check`
_NOT_SENT = {"error": {"code": "not_sent", "message": "The command ended before the API accepted it."}}


class Submission:
    """Images, each with its row for people and its job."""

    def __init__(
        self, client: Client, images: Sequence[Path], rows: Sequence[Row], refresh: Callable[[Row], None]
    ) -> None:
        self._client = client
        self._images = images
        self._rows = rows
        self._refresh = refresh
        self._ids: dict[str, int] = {}  # the index of each job's image
        self._documents: dict[int, dict[str, Any]] = {}
        self.tried = 0
        """How many images were accepted, refused or could not be read; the next one may be on its way."""

    def send(self, *, model: str | None = None, policy: str | None = None, stability: bool = False) -> None:
        """Submit all; one that is refused, or cannot be read, does not keep the others back."""
        for index, (image, row) in enumerate(zip(self._images, self._rows, strict=True)):
            try:
                job = self._client.submit(image, model=model, policy=policy, stability=stability)
            except ApiRefusedError as error:
                self._fail(index, error.code, error.message)
            except OSError as error:
                self._fail(index, "unreadable_file", str(error.strerror))
            else:
                self._ids[job.id] = index
                self._documents[index] = dict(job.document)
                row.status = job.status
                self._refresh(row)
            self.tried = index + 1

    def wait(self, seconds: float, check: Callable[[], None] = lambda: None) -> None:
        """Follow all jobs to their ends; `check` is called now and then and may raise.

        Raises:
            StillRunningError: `seconds` passed first.
        """
        deadline = time.monotonic() + seconds
        while True:
            going_on = [job_id for job_id, index in self._ids.items() if not self._rows[index].ended]
            left = max(deadline - time.monotonic(), 0.0)
            try:
                self._client.wait(going_on, self._note, seconds=min(_CHECK_SECONDS, left))
            except StillRunningError:
                check()
                if left <= _CHECK_SECONDS:
                    raise
            else:
                return

    def documents(self) -> list[dict[str, Any]]:
        """One JSON document for each image: its file, and its job or what kept it from being one."""
        return [{"file": str(path), **self._documents.get(index, _NOT_SENT)} for index, path in enumerate(self._images)]

    def jobs(self) -> list[tuple[Path, SubmittedJob]]:
        """Each accepted image with its job as last seen."""
        return [(self._images[index], SubmittedJob.of(self._documents[index])) for index in self._ids.values()]

    def unfinished(self) -> list[tuple[Path, SubmittedJob]]:
        """Each accepted image whose job had not ended when it was last seen."""
        return [(path, job) for path, job in self.jobs() if not job.ended]

    @property
    def all_queued(self) -> bool:
        """Whether jobs wait, and no worker has begun any of them."""
        unfinished = self.unfinished()
        return bool(unfinished) and all(job.status == "queued" for _, job in unfinished)

    @property
    def complete(self) -> bool:
        """Whether every image has a verdict."""
        return all(row.result is not None for row in self._rows)

    def _note(self, job: SubmittedJob) -> None:
        index = self._ids[job.id]
        row = self._rows[index]
        self._documents[index] = dict(job.document)
        row.show(job)
        self._refresh(row)

    def _fail(self, index: int, code: str, message: str) -> None:
        self._documents[index] = {"error": {"code": code, "message": message}}
        self._rows[index].problem = message
        self._refresh(self._rows[index])
