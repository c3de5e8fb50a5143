"""How many jobs may be open: what is refused, when, with what words, and that nothing of it is stored."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import text

from shared.domain import AttemptId
from shared.errors import ErrorCode, JobError
from shared.jobs import lifecycle
from tests.support.api_world import Answer, ApiWorld, png

SOON = 10.0


def sources(world: ApiWorld) -> int:
    """How many uploads lie in the store for the tenants of this test."""
    with world.around.database.begin() as session:
        tenants = session.scalars(text("SELECT id::text FROM tenants")).all()
    return sum(len(world.around.store.keys(f"{tenant}/")) for tenant in tenants)


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert "Retry-After" in answer.json["remedy"]


def test_a_tenant_at_its_limit_is_refused_until_a_job_ends_and_others_are_not(
    api_with: Callable[..., ApiWorld],
) -> None:
    world = api_with(max_open_jobs_per_tenant=2)
    for _ in range(2):
        world.one.submit()
    assert_refused(world.one.post_form(png()), 429, "too_many_open_jobs")
    assert sources(world) == 2
    world.other.submit()
    _, job_id, attempt = world.claim()  # a job that runs is open all the same
    assert_refused(world.one.post_form(png()), 429, "too_many_open_jobs")
    lifecycle.fail(world.around.database, AttemptId(job_id, attempt), JobError(ErrorCode.CORRUPT_IMAGE))
    world.one.submit()


def test_the_limit_is_looked_at_before_the_body(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(max_open_jobs_per_tenant=1)
    world.one.submit()
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert_refused(world.one.post("/v1/jobs", data=b"no form at all", headers=form), 429, "too_many_open_jobs")


def test_all_tenants_together_have_a_limit(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(max_open_jobs=2)
    world.one.submit()
    world.other.submit()
    passes_after = [at_limit for _ in range(100) if (at_limit := world.one.post_form(png())).status_code == 503]
    # Once the count, which is reused for some milliseconds, is made anew.
    assert_refused(passes_after[0], 503, "service_overloaded")
    assert sources(world) == 2 + 100 - len(passes_after)


def test_a_submission_that_comes_again_is_answered_however_full_the_service_is(
    api_with: Callable[..., ApiWorld],
) -> None:
    world = api_with(max_open_jobs_per_tenant=1)
    world.one.headers["Idempotency-Key"] = "upload-7"
    first = world.one.post_form(png())
    again = world.one.post_form(png())
    assert (again.status_code, again.json) == (202, first.json)
    world.one.headers["Idempotency-Key"] = "upload-8"
    assert_refused(world.one.post_form(png()), 429, "too_many_open_jobs")


def test_submissions_at_the_same_moment_do_not_pass_a_tenants_limit(
    api_with: Callable[..., ApiWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have found room, and stored their images, before any of them commits."""
    world = api_with(max_open_jobs_per_tenant=3)
    put, together = world.around.store.put, Barrier(10)

    def put_together(*arguments: Any) -> None:
        put(*arguments)
        together.wait(SOON)

    monkeypatch.setattr(world.around.store, "put", put_together)
    with ThreadPoolExecutor(10) as clients:
        answers = list(clients.map(lambda _: world.one.post_form(png()), range(10)))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 7
    assert len(world.one.get("/v1/jobs").json["items"]) == sources(world) == 3


def test_a_tenant_may_have_a_limit_of_its_own(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(max_open_jobs_per_tenant=1)
    with world.around.database.begin() as session:
        session.execute(text("UPDATE tenants SET max_open_jobs = 3 WHERE name = 'one'"))
    for _ in range(3):
        world.one.submit()
    answer = world.one.post_form(png())
    assert_refused(answer, 429, "too_many_open_jobs")
    assert answer.json["detail"].startswith("3 jobs")


def test_refusals_are_counted(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(max_open_jobs_per_tenant=1)
    world.one.submit()
    before = _refusals(world)
    world.one.post_form(png())
    assert _refusals(world) == before + 1


def _refusals(world: ApiWorld) -> float:
    lines = world.anonymous.get("/metrics").text.splitlines()
    name = 'distildire_submissions_refused_total{code="too_many_open_jobs"}'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_who_is_refused_learns_how_fast_jobs_end(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(max_open_jobs_per_tenant=20)
    for _ in range(20):
        world.one.submit()
    assert world.one.post_form(png()).headers["Retry-After"] == "60"  # nothing ended lately
    for _ in range(15):
        world.fail_next()
        world.one.submit()
    # 15 in the last minute: a tenth of the limit, 2 jobs, in 8 s.
    assert world.one.post_form(png()).headers["Retry-After"] == "8"
