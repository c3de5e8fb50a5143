"""Sends every file through the service and holds what came of it against what was promised."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx

from shared.errors import ErrorCode
from tests.hostile.corpora import HostileFile
from tests.hostile.service import TENANTS, MemoryGauge, ServiceUnderTest

#: The most that a file may take, from the first byte sent to a terminal state seen.
MOST_SECONDS = 10.0
_GIVE_UP_SECONDS = 300.0
_POLL_SECONDS = 0.01
_FAILURES = {
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.CORRUPT_IMAGE,
    ErrorCode.IMAGE_TOO_LARGE,
    ErrorCode.DECOMPRESSION_BOMB,
    ErrorCode.DECODE_CRASHED,
    ErrorCode.OUT_OF_MEMORY,
}
_REFUSALS = {"unsupported_media_type", "image_empty", "image_too_large", "decompression_bomb", "corrupt_image"}


@dataclass(frozen=True)
class Ending:
    """What came of one file."""

    file: HostileFile
    refused: bool
    """By the API: no job was made."""
    code: str
    """Of the refusal or of the job's error; `succeeded`; or what went wrong."""
    seconds: float
    message: str = ""
    attempts: int = 0

    @property
    def broken(self) -> str:
        """What promise was broken, if any."""
        known = _REFUSALS if self.refused else {*_FAILURES, "succeeded"}
        if self.code not in known:
            return f"ended as {self.code}: {self.message}"
        if self.attempts > 1:
            return f"needed {self.attempts} attempts"
        return ""

    @property
    def slow(self) -> str:
        """How long it took, if longer than promised."""
        return f"took {self.seconds:.1f} s" if self.seconds > MOST_SECONDS else ""


@dataclass
class Outcome:
    """What a run showed."""

    endings: list[Ending] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """Without what took too long."""
    worker_bytes_at_rest: int = 0
    worker_bytes: int = 0
    seconds: float = 0.0


def send_all(service: ServiceUnderTest, files: Sequence[HostileFile]) -> Outcome:
    """Send every file, one at a time for each tenant, and wait for what comes of it."""
    outcome, began, rest = Outcome(), time.monotonic(), iter(files)
    taking = threading.Lock()

    def take() -> Iterator[HostileFile]:
        while True:
            with taking:
                file = next(rest, None)
            if file is None:
                return
            yield file

    gauge = MemoryGauge(service.worker_pid)
    with ExitStack() as opened, gauge.watching(), ThreadPoolExecutor(len(TENANTS)) as threads:
        clients = [opened.enter_context(service.client(tenant)) for tenant in TENANTS]
        for endings in threads.map(lambda client: [_send(client, file) for file in take()], clients):
            outcome.endings += endings
    outcome.seconds = time.monotonic() - began
    outcome.worker_bytes_at_rest, outcome.worker_bytes = gauge.at_rest, gauge.most
    outcome.violations = _violations(service, outcome.endings)
    return outcome


def flood(service: ServiceUnderTest, file: HostileFile) -> Outcome:
    """Send one file as often as the worker carries jobs, all at once: what it may hold at the most."""
    count, began = service.place.settings.slot_count, time.monotonic()
    gauge = MemoryGauge(service.worker_pid)
    with service.client(TENANTS[0]) as client, gauge.watching(), ThreadPoolExecutor(count) as threads:
        endings = list(threads.map(lambda copy: _send(client, copy), [file] * count))
    failed = [f"{file.name}, with {count} at once: {ending.code}" for ending in endings if ending.code != "succeeded"]
    return Outcome(endings, failed, gauge.at_rest, gauge.most, time.monotonic() - began)


def broken_by(endings: Sequence[Ending]) -> list[str]:
    """What promises were broken, without those of time."""
    return [f"{ending.file.source}, {ending.file.name}: {ending.broken}" for ending in endings if ending.broken]


def slow_among(endings: Sequence[Ending]) -> list[str]:
    """What took longer than promised."""
    return [f"{ending.file.source}, {ending.file.name}: {ending.slow}" for ending in endings if ending.slow]


def _violations(service: ServiceUnderTest, endings: Sequence[Ending]) -> list[str]:
    return broken_by(endings) + [f"{name} ended" for name in service.ended()] + service.complaints()


def _send(client: httpx.Client, file: HostileFile) -> Ending:
    began = time.monotonic()
    try:
        answer = client.post("/v1/jobs", files={"image": ("image", file.data)})
        document = answer.json()
        if answer.status_code != httpx.codes.ACCEPTED:
            code = document["code"] if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR else str(answer)
            return Ending(file, True, code, time.monotonic() - began)
        return _wait(client, file, answer.headers["Location"], began)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return Ending(file, True, repr(error), time.monotonic() - began)


def _wait(client: httpx.Client, file: HostileFile, location: str, began: float) -> Ending:
    """Wait until the job has ended, as its owner would see it."""
    while True:
        job = client.get(location).json()
        seconds = time.monotonic() - began
        if job["status"] not in {"queued", "running"}:
            error = job["error"] or {"code": job["status"], "message": ""}
            return Ending(file, False, error["code"], seconds, error["message"], job["attempt"])
        if seconds > _GIVE_UP_SECONDS:
            return Ending(file, False, "stuck", seconds, job["status"])
        time.sleep(_POLL_SECONDS)
