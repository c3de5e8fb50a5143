"""Submitting, reading, listing and canceling jobs over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text

from shared.domain import PICTURES
from shared.errors import ErrorCode
from shared.settings import Settings
from shared.storage.object_store import source_key
from tests.support.api_world import ApiWorld, png


def test_an_accepted_job_is_committed_with_its_image_in_the_store(api: ApiWorld) -> None:
    image = png()
    response = api.one.post_form(image, metadata='{"post": 7, "tags": ["a"]}')
    assert response.status_code == 202
    accepted = response.json
    assert response.headers["Location"] == accepted["links"]["self"] == f"/v1/jobs/{accepted['id']}"
    assert int(response.headers["Retry-After"]) >= 1
    assert accepted["status"] == "queued"
    job = api.one.get(response.headers["Location"]).json
    assert job["metadata"] == {"post": 7, "tags": ["a"]}
    assert (job["status"], job["attempt"], job["result"], job["error"]) == ("queued", 0, None, None)
    assert job["artifacts"]["source"]["sha256"] == hashlib.sha256(image).hexdigest()
    tenant_id, job_id, _ = api.claim()
    assert str(job_id) == accepted["id"]
    assert api.around.store.get(source_key(tenant_id, job_id)) == image


def test_whatever_is_accepted_wakes_a_worker_that_carries_jobs(
    api_with: Callable[..., ApiWorld], api_settings: Settings
) -> None:
    url = urlsplit(api_settings.redis_url.get_secret_value())._replace(path="/8").geturl()  # no other test's
    world = api_with(redis_url=SecretStr(url))
    with Redis.from_url(url) as redis:
        redis.flushdb()
        submitted = world.one.submit()
        assert _woken_for(redis) == ("worker.analyze", submitted)
        replayed = world.one.post(f"/v1/jobs/{world.fail_next(ErrorCode.INTERNAL)}/replay").json["id"]
        assert _woken_for(redis) == ("worker.analyze", replayed)
        assert [redis.llen(queue) for queue in ("analysis", "webhooks", "sweep")] == [0, 0, 0]  # nobody else is woken


def _woken_for(redis: Redis) -> tuple[str, str]:
    """Take the next wake-up from the queue of the analysis workers; return its task and the job that it names."""
    found = redis.blpop(["analysis"], timeout=10)
    assert found is not None
    _, raw = found
    message = json.loads(raw)
    _, named, _ = json.loads(base64.b64decode(message["body"]))
    return message["headers"]["task"], named["reference"]


def test_pictures_are_all_on_by_default_and_can_be_refused(api: ApiWorld) -> None:
    every, one = api.one.submit(), api.one.submit(dire_map="false", overlay="0", heatmap="1", preview="false")
    with api.around.database.begin() as session:
        rows = session.execute(text("SELECT id::text, pictures FROM jobs")).all()
    assert {row.id: row.pictures for row in rows} == {every: [*PICTURES], one: ["heatmap"]}


def test_the_served_model_may_be_named(api: ApiWorld) -> None:
    api.one.submit(model=api.around.settings.model)
    refused = api.one.post_form(png(), model="OTHER-MODEL")
    assert (refused.status_code, refused.json["code"]) == (422, "unknown_model")
    assert api.around.settings.model in refused.json["detail"]


def test_a_finished_job_shows_its_result_and_a_failed_one_its_error(api: ApiWorld) -> None:
    api.one.submit()
    good = api.one.get(f"/v1/jobs/{api.succeed_next()}").json
    assert good["status"] == "succeeded"
    assert good["result"]["prediction"] == "FAKE"
    assert good["result"]["dimensions"] == {"width": 8, "height": 6}
    assert "heatmap_scores" not in good["result"]
    assert set(good["artifacts"]) == {"source", *PICTURES}
    api.one.submit()
    bad = api.one.get(f"/v1/jobs/{api.fail_next(ErrorCode.CORRUPT_IMAGE)}").json
    assert bad["error"]["code"] == "corrupt_image"
    assert bad["error"]["retryable"] is False


@pytest.mark.parametrize("how", ["queued", "running"])
def test_a_job_that_has_not_ended_can_be_canceled_and_again(api: ApiWorld, how: str) -> None:
    job_id = api.one.submit()
    if how == "running":
        api.claim()
    for _ in range(2):
        response = api.one.post(f"/v1/jobs/{job_id}/cancel")
        assert (response.status_code, response.json["status"]) == (200, "canceled")


def test_a_job_that_has_ended_cannot_be_canceled(api: ApiWorld) -> None:
    api.one.submit()
    job_id = api.succeed_next()
    response = api.one.post(f"/v1/jobs/{job_id}/cancel")
    assert (response.status_code, response.json["code"]) == (409, "job_already_finished")
    assert api.one.get(f"/v1/jobs/{job_id}").json["status"] == "succeeded"


def test_following_next_shows_every_job_once_newest_first_while_others_are_added(api: ApiWorld) -> None:
    there = [api.one.submit() for _ in range(7)]
    seen: list[str] = []
    path: str | None = "/v1/jobs?limit=2"
    while path:
        page = api.one.get(path).json
        seen += [job["id"] for job in page["items"]]
        path = page["links"]["next"]
        api.one.submit()  # newer than all that is shown: it must not move a page
    assert seen == there[::-1]


def test_jobs_of_the_same_moment_are_all_listed(api: ApiWorld) -> None:
    there = {api.one.submit() for _ in range(5)}
    with api.around.database.begin() as session:
        session.execute(text("UPDATE jobs SET created_at = now()"))
    seen: list[str] = []
    path: str | None = "/v1/jobs?limit=1"
    while path:
        page = api.one.get(path).json
        seen += [job["id"] for job in page["items"]]
        path = page["links"]["next"]
    assert len(seen) == 5
    assert set(seen) == there


def test_a_list_keeps_its_filter_from_page_to_page(api: ApiWorld) -> None:
    ended = []
    for _ in range(3):
        api.one.submit()
        ended.append(api.fail_next())
    api.one.submit()
    first = api.one.get("/v1/jobs?status=failed&limit=2").json
    second = api.one.get(first["links"]["next"]).json
    assert [job["id"] for job in first["items"] + second["items"]] == ended[::-1]
    assert second["links"]["next"] is None


def test_a_filter_by_state_reads_only_jobs_in_that_state(api: ApiWorld) -> None:
    job_id = api.one.submit()
    copies = "INSERT INTO jobs SELECT (jsonb_populate_record(jobs, jsonb_build_object('id', gen_random_uuid()))).*"
    with api.around.database.begin() as session:
        session.execute(text(f"{copies} FROM jobs, generate_series(1, 3000)"))
        session.execute(text("UPDATE jobs SET state = 'canceled', finished_at = now() WHERE id <> :id"), {"id": job_id})
        session.execute(text("ANALYZE jobs"))
        mine = "tenant_id = (SELECT id FROM tenants WHERE name = 'one') AND state = 'failed'"
        query = f"SELECT * FROM jobs WHERE {mine} ORDER BY created_at DESC, id DESC LIMIT 21"
        plan = "\n".join(session.scalars(text(f"EXPLAIN {query}")))
    assert "jobs_list_by_state" in plan, plan


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=__________________________8=", "cursor"),
        ("status=lost", "status"),
        ("statuss=failed", "statuss"),
    ],
)
def test_a_wrong_query_names_its_parameter(api: ApiWorld, query: str, field: str) -> None:
    response = api.one.get(f"/v1/jobs?{query}")
    assert (response.status_code, response.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in response.json["errors"]] == [field]
    assert "Value error" not in response.json["detail"]  # pydantic's word for sentences of ours


@pytest.mark.parametrize(
    "job_id", ["5f0c9c1e-6c0b-4d5c-9a51-1f6d2a5a7c11", "not-an-id", "1", "%00", "..%2f..", "A" * 300]
)
def test_an_unknown_or_malformed_id_is_not_found(api: ApiWorld, job_id: str) -> None:
    response = api.one.get(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.json["code"]) == (404, "not_found")


def test_a_poll_says_when_to_ask_again_and_how_to_cancel_until_the_job_has_ended(api: ApiWorld) -> None:
    path = f"/v1/jobs/{api.one.submit()}"
    queued = api.one.get(path)
    assert queued.headers["Retry-After"] == "1"
    assert queued.json["links"] == {"self": path, "cancel": f"{path}/cancel"}
    api.succeed_next()
    ended = api.one.get(path)
    assert "Retry-After" not in ended.headers
    assert ended.json["links"] == {"self": path, "heatmap": f"{path}/heatmap"}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/jobs?limit=1&limit=5", "limit"),
        ("/v1/jobs?status=failed&limit=3&status=queued", "status"),
        ("/v1/webhook-deliveries?state=failed&state=failed", "state"),
    ],
)
def test_a_parameter_that_is_given_twice_is_refused(api: ApiWorld, path: str, field: str) -> None:
    refused = api.one.get(path)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_field")
    assert refused.json["errors"] == [{"field": field, "message": "is given more than once"}]


@pytest.mark.parametrize("path", ["//v1/jobs", "//metrics", "//openapi.json", "//docs"])
def test_an_address_with_a_slash_too_many_is_none(api: ApiWorld, path: str) -> None:
    for method in ("GET", "POST"):
        refused = api.one.open("http://localhost" + path, method)
        assert (refused.status_code, refused.json["code"]) == (404, "not_found")


def test_options_are_answered_without_a_page(api: ApiWorld) -> None:
    answer = api.one.open("/v1/jobs", "OPTIONS")
    assert (answer.status_code, answer.data) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
