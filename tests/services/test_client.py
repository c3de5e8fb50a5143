"""The client against a server that answers by a script: what it asks again, what it raises, what it tells."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.commands.submit import WorkerWatch
from deploy.submission import Submission
from deploy.terminal.verdicts import Row
from shared.client import ApiRefusedError, ApiUnreachableError, Client, StillRunningError, SubmittedJob
from tests.support.ports import free_ports

_PROBLEM = {"code": "key_invalid", "detail": "Not a valid API key.", "remedy": "Check the key.", "title": "No"}


_SILENCE = 0  # as a status: the connection ends without an answer
Answer = tuple[int, Mapping[str, Any] | str, Mapping[str, str]]  # status, JSON or text, headers


@dataclass
class Script:
    """The answers to give, in turn, the last one for ever, or by `choose`; and the requests that came."""

    answers: list[Answer]
    choose: Callable[[str, str], Answer] | None = None
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def api(*answers: Answer) -> Iterator[tuple[str, Script]]:
    """A server that follows a script of (status, JSON, headers); its URL."""
    script = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append((self.command, self.path, body))
            script.keys.append(self.headers["Idempotency-Key"])
            status, document, headers = script.choose(self.command, self.path) if script.choose else script.next()
            if status == _SILENCE:
                self.close_connection = True
                return
            content = (document if isinstance(document, str) else json.dumps(document)).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815  # the standard library looks for this name

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG and more")
    return path


@pytest.mark.parametrize("status", [429, 503])
def test_a_request_that_is_told_to_wait_is_sent_again_whole_after_that_time(image: Path, status: int):
    wait = (status, _PROBLEM, {"Retry-After": "1"})
    accepted: Answer = (202, {"id": "1", "status": "queued"}, {})
    with api(wait, accepted) as (url, script), Client(url, "dd_key") as client:
        began = time.monotonic()
        job = client.submit(image, policy="strict", stability=True, pictures={"overlay": False}, metadata={"post": 7})
        assert time.monotonic() - began >= 1

    assert job.id == "1"
    assert not job.ended
    first, second = (body for _, _, body in script.requests)
    for body in (first, second):
        assert b"\x89PNG and more" in body
        assert b'filename="cat.png"' in body
        assert b'{"post": 7}' in body
    assert b'name="overlay"\r\n\r\nfalse' in second
    assert b'name="policy"\r\n\r\nstrict' in second
    assert b'name="stability"\r\n\r\ntrue' in second


def test_a_submission_whose_answer_was_lost_is_sent_again_under_the_same_key(image: Path):
    lost: Answer = (_SILENCE, {}, {})
    accepted: Answer = (202, {"id": "1", "status": "queued"}, {})
    with api(lost, accepted) as (url, script), Client(url, "dd_key") as client:
        assert client.submit(image).id == "1"
        client.submit(image)
    first, second, another = script.keys
    assert first == second
    assert first is not None
    assert another not in (None, first)


@pytest.mark.parametrize(
    ("status", "code"), [(429, "too_many_open_jobs"), (429, "rate_limited"), (503, "service_overloaded")]
)
def test_for_room_a_client_waits_as_long_as_it_is_told_and_longer_than_for_an_outage(
    image: Path, status: int, code: str
):
    full: Answer = (status, {**_PROBLEM, "code": code}, {"Retry-After": "1"})
    accepted: Answer = (202, {"id": "1", "status": "queued"}, {})
    with (
        api(full, full, accepted) as (url, script),
        Client(url, "dd_key", retry_seconds=0.5, capacity_retry_seconds=10) as client,
    ):
        began = time.monotonic()
        assert client.submit(image).id == "1"
        assert time.monotonic() - began >= 2
    assert len({*script.keys}) == 1
    with (
        api(full) as (url, script),
        Client(url, "dd_key", capacity_retry_seconds=0.5) as client,
        pytest.raises(ApiRefusedError) as refused,
    ):
        client.submit(image)
    assert (refused.value.code, len(script.requests)) == (code, 1)


def test_waiting_ends(image: Path):
    wait = (503, _PROBLEM, {"Retry-After": "1"})
    with (
        api(wait) as (url, script),
        Client(url, "dd_key", retry_seconds=0.5) as client,
        pytest.raises(ApiRefusedError) as refused,
    ):
        client.submit(image)
    assert refused.value.status == 503
    assert len(script.requests) == 1


def test_a_refusal_is_raised_with_code_and_remedy_and_not_sent_again(image: Path):
    with (
        api((401, _PROBLEM, {})) as (url, script),
        Client(url, "dd_key") as client,
        pytest.raises(ApiRefusedError, match="Check the key") as refused,
    ):
        client.submit(image)
    assert (refused.value.status, refused.value.code) == (401, "key_invalid")
    assert len(script.requests) == 1


def test_an_answer_that_is_no_problem_document_is_a_refusal_too():
    with (
        api((502, {}, {})) as (url, _),
        Client(url, "dd_key") as client,
        pytest.raises(ApiRefusedError, match="answered 502"),
    ):
        client.get("1")


def test_a_server_that_is_not_there_is_said_so():
    (port,) = free_ports(1)
    with (
        Client(f"http://127.0.0.1:{port}", "dd_key", retry_seconds=0.3) as client,
        pytest.raises(ApiUnreachableError, match="distildire up"),
    ):
        client.get("1")


def test_waiting_tells_each_change_once_and_ends_with_the_jobs():
    def job(status: str, stage: str | None = None) -> Answer:
        return 200, {"id": "1", "status": status, "stage": stage}, {}

    answers = [job("queued"), job("running", "decoding"), job("running", "decoding"), job("succeeded")]
    told: list[SubmittedJob] = []
    with api(*answers) as (url, script), Client(url, "dd_key") as client:
        (ended,) = client.wait(["1"], told.append, seconds=30)

    assert ended.ended
    assert [(each.status, each.stage) for each in told] == [
        ("queued", None),
        ("running", "decoding"),
        ("succeeded", None),
    ]
    assert [path for _, path, _ in script.requests] == ["/v1/jobs/1"] * 4


def test_a_submission_asks_no_more_for_a_job_that_has_ended(image: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploy.submission._CHECK_SECONDS", 0.15)
    ended = {"id": "1", "status": "succeeded", "result": {"prediction": "REAL"}}
    with following(image, {"1": ended, "2": {"id": "2", "status": "queued"}}) as (_, submission, script):
        looks = []
        with pytest.raises(StillRunningError):
            submission.wait(0.6, lambda: looks.append(submission.all_queued))
    assert [path for method, path, _ in script.requests if method == "GET"].count("/v1/jobs/1") == 1
    assert len(looks) > 1
    assert all(looks), "of those that have not ended"


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ('distildire_workers_ready{role="analysis"} 0.0', "No analysis worker is running"),
        ('distildire_workers_ready{role="analysis"} 2.0', ""),
        (None, "this API does not tell whether an analysis worker is running"),
        ("of another program 0.0", "this API does not tell whether an analysis worker is running"),
    ],
)
def test_who_waits_is_told_once_that_nobody_works_or_that_this_cannot_be_told(
    image: Path, monkeypatch: pytest.MonkeyPatch, metrics: str | None, says: str
):
    said: list[str] = []
    jobs = {number: {"id": number, "status": "queued"} for number in "12"}
    with following(image, jobs, metrics) as (client, submission, _):
        monkeypatch.setattr("deploy.commands.submit._UNKNOWN_SECONDS", 3600)
        watch = WorkerWatch(client, submission, said.append)
        watch.look()
        assert bool(said) == says.startswith("No ")
        monkeypatch.setattr("deploy.commands.submit._UNKNOWN_SECONDS", 0)
        watch.look()
        watch.look()
    assert len(said) == bool(says)
    assert says in "".join(said)
    assert all("distildire doctor" in words for words in said)


@contextmanager
def following(
    image: Path, jobs: Mapping[str, Mapping[str, Any]], metrics: str | None = None
) -> Iterator[tuple[Client, Submission, Script]]:
    """A client, its submission of an image for each of `jobs`, which never change, and what the API was asked."""

    def answer(method: str, path: str) -> Answer:
        if path == "/metrics":
            return (404, {}, {}) if metrics is None else (200, metrics, {})
        if method == "GET":
            return 200, jobs[path[-1]], {}
        sent = sum(each == "POST" for each, _, _ in script.requests)
        return 202, {"id": str(sent), "status": "queued"}, {}

    with api() as (url, script), Client(url, "dd_key") as client:
        script.choose = answer
        submission = Submission(client, [image] * len(jobs), [Row(number) for number in jobs], lambda _: None)
        submission.send()
        yield client, submission, script


def test_waiting_has_an_end():
    with (
        api((200, {"id": "1", "status": "queued"}, {})) as (url, _),
        Client(url, "dd_key") as client,
        pytest.raises(StillRunningError),
    ):
        client.wait(["1"], seconds=0.2)
