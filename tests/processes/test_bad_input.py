"""Everything that a client may send by mistake or malice, over HTTP, to a real API with a real worker behind it.

What the API can know cheaply it refuses; the rest is the job's error, which only a worker can have found. Bodies over
the limit, which are refused before they are read, are in tests/services/test_api_server.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from shared.errors import ErrorCode
from tests.processes.worker_processes import WorkerProcess, Workplace
from tests.support.bad_images import ACCEPTED, REFUSED, OddImage, photograph, saved

PHOTOGRAPH = saved(photograph(), "JPEG")
#: Refused with a status of its own; every other code of an image is a 422.
STATUS = {ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415}
#: What only decoding shows: accepted by the API, failed by the worker.
FOUND_BY_DECODING = {
    "floating-point tiff",
    *(f"truncated {name}" for name in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")),
    "png without its last bytes",
    "jpeg cut and closed",
    "jpeg whose end was never written",
    "signature alone",
    "png without pixels",
    "png with a wrong checksum",
    "png with a text bomb",
    "png with a profile bomb",
}


@pytest.fixture
def worker(place: Workplace) -> WorkerProcess:
    return place.start_analysis()


@pytest.fixture
def client(place: Workplace) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {place.new_key()}"}
    with httpx.Client(base_url=place.start_api(), headers=headers, trust_env=False, timeout=60) as client:
        yield client


def post(client: httpx.Client, image: bytes, name: str = "image.jpg", **fields: str) -> httpx.Response:
    return client.post("/v1/jobs", files={"image": (name, image)}, data=fields)


def refusal(image: OddImage) -> tuple[int, str]:
    """The status and code by which the API refuses an image that it can judge."""
    if not image.data:
        return 422, "image_empty"
    assert image.code is not None
    return STATUS.get(image.code, 422), image.code


def test_every_odd_image_gets_its_answer(place: Workplace, worker: WorkerProcess, client: httpx.Client) -> None:
    answers = {image.name: post(client, image.data, image.name) for image in (*REFUSED, *ACCEPTED)}
    refused = {name: (answer.status_code, answer.json()["code"]) for name, answer in answers.items() if answer.is_error}
    assert refused == {image.name: refusal(image) for image in REFUSED if image.name not in FOUND_BY_DECODING}

    place.wait_all_ended(120)
    jobs = {
        name: client.get(answer.headers["Location"]).json() for name, answer in answers.items() if answer.is_success
    }
    expected = {image.name: image.code for image in REFUSED if image.name in FOUND_BY_DECODING}
    assert {name: job["error"]["code"] for name, job in jobs.items() if job["status"] == "failed"} == expected
    for image in ACCEPTED:
        job = jobs.pop(image.name)
        assert job["status"] == "succeeded", (image.name, job["error"])
        assert job["result"]["prediction"] in {"REAL", "FAKE"}
        assert tuple(job["result"]["dimensions"].values()) == image.size, image.name
        assert job["result"]["input"]["media_type"] == image.media_type, image.name
        assert set(image.caveats) <= set(job["result"]["caveats"]), image.name
    assert set(jobs) == FOUND_BY_DECODING

    good = post(client, PHOTOGRAPH)
    assert place.wait_ended(UUID(good.json()["id"])).state == "succeeded"
    assert worker.process.poll() is None
    assert {job.deaths for job in place.jobs()} == {0}


def test_every_odd_request_gets_its_answer_and_makes_no_job(place: Workplace, client: httpx.Client) -> None:
    foreign = httpx.Headers({"Authorization": f"Bearer {place.new_key('another')}"})
    mine = post(client, PHOTOGRAPH).json()["links"]["self"]
    whole, image = {"image": ("a.jpg", PHOTOGRAPH)}, ("a.jpg", PHOTOGRAPH)
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("POST", "/v1/jobs", {"files": {"heatmap": (None, "true")}}, 422, "image_required"),
        ("POST", "/v1/jobs", {"json": {"image": "x"}}, 415, "multipart_required"),
        ("POST", "/v1/jobs", {"files": whole, "data": {"heatmaps": "true"}}, 422, "unknown_field"),
        ("POST", "/v1/jobs", {"files": whole, "data": {"heatmap": "perhaps"}}, 422, "invalid_field"),
        ("POST", "/v1/jobs", {"files": whole, "data": {"model": "NONE"}}, 422, "unknown_model"),
        ("POST", "/v1/jobs", {"files": [("image", image), ("image", image)]}, 422, "too_many_images"),
        ("POST", "/v1/jobs", {"files": whole, "headers": {"Authorization": "Bearer dd_wrong"}}, 401, "key_invalid"),
        ("POST", "/v1/jobs", {"files": whole, "headers": {"Authorization": ""}}, 401, "key_missing"),
        ("GET", mine, {"headers": foreign}, 404, "not_found"),
        ("POST", f"{mine}/cancel", {"headers": foreign}, 404, "not_found"),
        ("GET", f"/v1/jobs/{uuid4()}", {}, 404, "not_found"),
        ("GET", "/v1/jobs/1", {}, 404, "not_found"),
    ]
    for method, path, options, status, code in cases:
        answer = client.request(method, path, **options)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (method, path, code)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert [job.state for job in place.jobs()] == ["queued"]


@pytest.mark.usefixtures("place")
def test_a_files_name_means_nothing(client: httpx.Client) -> None:
    for name in ("holiday.txt", "page.html", "../../etc/passwd", "no extension", "naïve.gif", "x" * 300):
        answer = post(client, PHOTOGRAPH, name)
        assert answer.status_code == 202, name
        assert client.get(answer.headers["Location"]).json()["artifacts"]["source"]["media_type"] == "image/jpeg"
