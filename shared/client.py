"""A client of the HTTP API. Every wait is bounded; every refusal is one exception, with its remedy."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from shared.errors import DistildireError
from shared.outbound import by_which_proxy, open_client

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 60.0
_TRY_AGAIN = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE})
#: The codes of an API that has too many open jobs, or was sent too many requests.
_FULL = frozenset({"too_many_open_jobs", "service_overloaded", "rate_limited"})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between looks at a job, and between tries without Retry-After
#: The most bytes that are read from a pipe or a device.
_MOST_PIPED = 256 * 1024 * 1024
_METRICS_SECONDS = 5.0
_READY_WORKERS = re.compile(r'^distildire_workers_ready\{role="analysis"\} (\S+)$', re.MULTILINE)
_TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})


class ApiRefusedError(DistildireError):
    """The API refused the request. The attributes hold the status, the stable code and the remedy."""

    def __init__(self, status: int, code: str, detail: str, remedy: str) -> None:
        super().__init__(f"{detail} {remedy} ({code})".strip())
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy


class ApiUnreachableError(DistildireError):
    """The API does not answer. Check its address, and start it with `distildire up` if it is on this machine."""


class StillRunningError(DistildireError):
    """The jobs did not end in time. They still run; ask for them again later."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job as the API shows it; `document` is the whole response."""

    id: str
    status: str  # queued, running, succeeded, failed, canceled, expired
    stage: str | None = None  # where a running job is
    result: Mapping[str, Any] | None = None  # of a job that succeeded
    error: Mapping[str, Any] | None = None  # of a job that failed: code, message, retryable
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read a job's JSON. Fields that the response to a submission omits stay empty."""
        return cls(
            id=document["id"],
            status=document["status"],
            stage=document.get("stage"),
            result=document.get("result"),
            error=document.get("error"),
            artifacts=document.get("artifacts", {}),
            document=document,
        )

    @property
    def ended(self) -> bool:
        """Whether the job never changes again."""
        return self.status in _TERMINAL

    @property
    def problem(self) -> str:
        """Why the job failed; empty if it did not."""
        return f"{self.error['message']} ({self.error['code']})" if self.error else ""


class Client:
    """Calls one API with one key."""

    def __init__(
        self, api_url: str, api_key: str, *, retry_seconds: float = 30.0, capacity_retry_seconds: float = 120.0
    ) -> None:
        """A request that is refused with 429 or 503, or gets no answer, is sent again for `retry_seconds`.

        One that is refused because too many jobs are open, or because the key has made too many requests, is sent again
        for `capacity_retry_seconds`, each time after the wait that the API asks for.
        """
        self._retry_seconds = retry_seconds
        self._capacity_retry_seconds = capacity_retry_seconds
        self._http = open_client(
            api_url,
            base_url=api_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
        )

    def submit(
        self,
        path: Path,
        *,
        model: str | None = None,
        policy: str | None = None,
        stability: bool = False,
        pictures: Mapping[str, bool] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SubmittedJob:
        """Submit an image file. All tries use the same idempotency key, so only one job is created.

        Args:
            path: the image.
            model: a model card's name; None: the one that the service runs.
            policy: the policy that decides the verdict; None: the tenant's, or else the model's own threshold.
            stability: also classify small changes of the image, to report how stable the verdict is; costs five passes.
            pictures: which of `shared.domain.PICTURES` to draw, by name; by default all.
            metadata: a JSON object that comes back with the job.

        Raises:
            ApiRefusedError: the API refused the image.
            ApiUnreachableError: the API did not answer; it may have accepted the image all the same.
            OSError: the file cannot be read.
        """
        form = {name: "true" if wanted else "false" for name, wanted in (pictures or {}).items()}
        if stability:
            form["stability"] = "true"
        form |= {name: value for name, value in (("model", model), ("policy", policy)) if value is not None}
        if metadata is not None:
            form["metadata"] = json.dumps(metadata)

        headers = {"Idempotency-Key": str(uuid4())}

        name = path.name.encode(errors="replace").decode()  # a file's name need not be valid text
        piped = None if path.is_file() else _read_pipe(path)

        def send() -> httpx.Response:
            with path.open("rb") if piped is None else BytesIO(piped) as image:  # again for each try
                return self._http.post("/v1/jobs", data=form, files={"image": (name, image)}, headers=headers)

        return SubmittedJob.of(self._answer(send).json())

    def get(self, job_id: str) -> SubmittedJob:
        """Return the current state of a job.

        Raises:
            ApiRefusedError: this key's tenant has no such job, or the key is not valid.
            ApiUnreachableError: the API did not answer.
        """
        return SubmittedJob.of(self._answer(lambda: self._http.get(f"/v1/jobs/{job_id}")).json())

    def wait(
        self, ids: Iterable[str], on_change: Callable[[SubmittedJob], None] | None = None, *, seconds: float = 86_400
    ) -> Sequence[SubmittedJob]:
        """Wait until all jobs have ended and return them in the order of `ids`.

        `on_change` is called with each job once at first, and again whenever its status or stage changes.

        Raises:
            StillRunningError: `seconds` passed before all jobs ended.
            ApiRefusedError, ApiUnreachableError: as `get`.
        """
        jobs: dict[str, SubmittedJob | None] = dict.fromkeys(ids)
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        while True:
            for job_id, before in jobs.items():
                if before is None or not before.ended:
                    jobs[job_id] = self._look(job_id, before, on_change)
            ended = [job for job in jobs.values() if job is not None and job.ended]
            if len(ended) == len(jobs):
                return ended
            if time.monotonic() + pause > deadline:
                raise StillRunningError
            time.sleep(pause)
            pause = min(1.3 * pause, _LONGEST_PAUSE)

    def artifact(self, job_id: str, name: str) -> bytes:
        """Return a picture of a job as PNG, by its name in `shared.domain.PICTURES`, or its upload (`source`).

        Raises:
            ApiRefusedError: the job has no such picture.
            ApiUnreachableError: the API did not answer.
        """
        return self._answer(lambda: self._http.get(f"/v1/jobs/{job_id}/artifacts/{name}")).content

    def cancel(self, job_id: str) -> SubmittedJob:
        """Cancel a job and return it.

        Raises:
            ApiRefusedError, ApiUnreachableError: as `get`.
        """
        return SubmittedJob.of(self._answer(lambda: self._http.post(f"/v1/jobs/{job_id}/cancel")).json())

    def anybody_analyses(self) -> bool | None:
        """Whether an analysis worker is ready; None if unknown, for example behind a proxy that hides /metrics."""
        try:
            response = self._http.get("/metrics", timeout=_METRICS_SECONDS)
        except httpx.HTTPError:
            return None
        ready = _READY_WORKERS.search(response.text)
        return float(ready[1]) > 0 if response.is_success and ready is not None else None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _look(
        self, job_id: str, before: SubmittedJob | None, on_change: Callable[[SubmittedJob], None] | None
    ) -> SubmittedJob:
        job = self.get(job_id)
        if on_change is not None and (before is None or (before.status, before.stage) != (job.status, job.stage)):
            on_change(job)
        return job

    def _unreachable(self, problem: httpx.TransportError | None) -> ApiUnreachableError:
        url = str(self._http.base_url).rstrip("/")
        proxy = by_which_proxy(url)
        remedy = (
            "Check the proxy, or name the API's host in NO_PROXY."
            if proxy
            else "Check the address; `distildire up` starts the service on this machine."
        )
        why = str(problem) or type(problem).__name__
        return ApiUnreachableError(f"{url} does not answer{proxy} ({why}). {remedy}")

    def _answer(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send until the status is not in `_TRY_AGAIN` or the time for retries is over; raise if the request failed."""
        began = time.monotonic()
        pause = _FIRST_PAUSE
        while True:
            response, problem = _attempt(send)
            if response is not None and response.status_code not in _TRY_AGAIN:
                if response.is_success:
                    return response
                raise _refusal(response)
            pause = min(2 * pause, _LONGEST_PAUSE)
            wait = pause if response is None else _retry_after(response, pause)
            full = response is not None and _is_full(response)
            longest = self._capacity_retry_seconds if full else self._retry_seconds
            if time.monotonic() + wait > began + longest:
                if response is not None:
                    raise _refusal(response)
                raise self._unreachable(problem) from problem
            time.sleep(wait)


def _read_pipe(path: Path) -> bytes:
    """Return the bytes of a pipe or a device, which can be read only once; raise `OSError` for a folder."""
    with path.open("rb") as source:
        data = source.read(_MOST_PIPED + 1)
    if len(data) > _MOST_PIPED:
        raise OSError(errno.EFBIG, f"It yields more than {_MOST_PIPED // 2**20} MiB; give a file instead", str(path))
    return data


def _attempt(send: Callable[[], httpx.Response]) -> tuple[httpx.Response | None, httpx.TransportError | None]:
    try:
        return send(), None
    except httpx.TransportError as error:
        return None, error


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    """Return the seconds that the API asks to wait; `otherwise` if it states none (or a date, which it never does)."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else otherwise


def _is_full(response: httpx.Response) -> bool:
    """Whether the request was refused because there were too many of its kind, and not for an outage."""
    return _refusal(response).code in _FULL


def _refusal(response: httpx.Response) -> ApiRefusedError:
    """Return the problem document (RFC 9457) of a refusal as an exception; a proxy's response may have none."""
    try:
        problem = response.json()
        return ApiRefusedError(
            response.status_code, problem["code"], problem["detail"], problem.get("remedy") or problem["title"]
        )
    except (ValueError, KeyError, TypeError):
        return ApiRefusedError(
            response.status_code,
            "no_problem_document",
            f"{response.url} answered {response.status_code} {response.reason_phrase}.",
            "Check that the address is the API's.",
        )
