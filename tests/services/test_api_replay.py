"""Dead jobs are found and run again as new ones; what has ended can be deleted."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from shared.database.tables import JobRow
from shared.errors import ErrorCode
from shared.storage.object_store import ObjectStore, source_key
from tests.support.api_world import ApiWorld, png


def dead(api: ApiWorld, **fields: Any) -> str:
    api.one.submit(**fields)
    return api.fail_next(ErrorCode.ATTEMPTS_EXHAUSTED)


def test_dead_jobs_are_listed_apart_from_those_with_a_bad_file(api: ApiWorld) -> None:
    wanted = dead(api)
    api.one.submit()
    api.fail_next(ErrorCode.CORRUPT_IMAGE)
    for query in ("error_code=attempts_exhausted", "status=failed&error_code=attempts_exhausted"):
        assert [job["id"] for job in api.one.get(f"/v1/jobs?{query}").json["items"]] == [wanted]
    assert api.one.get("/v1/jobs?status=expired&error_code=attempts_exhausted").json["items"] == []
    assert api.other.get("/v1/jobs?error_code=attempts_exhausted").json["items"] == []
    assert api.one.get("/v1/jobs?error_code=bad_luck").status_code == 422


def test_a_replay_is_a_new_job_with_the_same_image_and_options(api: ApiWorld) -> None:
    image = png(9, 7)
    old_id = dead(api, image=image, metadata='{"post": 7}', overlay="false")
    before = api.one.get(f"/v1/jobs/{old_id}").json
    answer = api.one.post(f"/v1/jobs/{old_id}/replay")
    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    new = api.one.get(answer.headers["Location"]).json
    assert new["id"] == answer.json["id"] != old_id
    assert (new["replay_of"], new["metadata"], new["attempt"]) == (old_id, {"post": 7}, 0)
    assert new["artifacts"]["source"]["sha256"] == before["artifacts"]["source"]["sha256"]
    assert api.one.get(f"/v1/jobs/{old_id}").json == before  # what has ended never changes
    with api.around.database.begin() as session:
        assert not session.scalar(text("SELECT suspect FROM jobs WHERE id = :id"), {"id": new["id"]})
    assert api.one.get(f"/v1/jobs/{old_id}").json["replay_of"] is None
    assert api.one.delete(f"/v1/jobs/{old_id}").status_code == 204
    assert api.one.get(new["artifacts"]["source"]["href"]).data == image  # each job owns its bytes
    api.succeed_next(pictures=["heatmap"])
    assert api.one.get(answer.headers["Location"]).json["status"] == "succeeded"


#: What a replay does not have of the job that it repeats.
OF_ITS_OWN = {
    *("id", "replay_of", "idempotency_key", "source_key", "priority"),
    *("state", "attempt", "suspect", "deaths", "started_at", "finished_at", "created_at", "deadline_at", "beat_at"),
    *("worker", "error_code", "error_message", "error_retryable"),
}


def test_a_replay_has_all_else_of_the_job_that_it_repeats(api: ApiWorld) -> None:
    named = {"model": api.around.settings.model, "policy": "strict", "stability": "true", "dire_map": "false"}
    api.one.headers["Idempotency-Key"] = "once"
    old_id = dead(api, image=png(9, 7), metadata='{"post": 7}', **named)
    with api.around.database.begin() as session:
        session.execute(text("UPDATE api_keys SET priority = 7"))
    api.one.headers["Idempotency-Key"] = "again"
    new_id = api.one.post(f"/v1/jobs/{old_id}/replay").json["id"]
    with api.around.database.begin() as session:
        old, new = (session.scalars(select(JobRow).where(JobRow.id == UUID(each))).one() for each in (old_id, new_id))
        columns = {column.key for column in JobRow.__mapper__.column_attrs}
        assert columns > OF_ITS_OWN
        same = {name: getattr(old, name) for name in columns - OF_ITS_OWN}
        assert {name: getattr(new, name) for name in columns - OF_ITS_OWN} == same
        assert same["pictures"] == ["heatmap", "overlay", "preview"]
        assert (same["policy"], same["stability"]) == ("strict", True)
        assert (old.priority, new.priority) == (0, 7)  # the caller's of now
        assert new.idempotency_key == "again"


def test_a_source_that_is_not_what_was_uploaded_is_not_run_again(api: ApiWorld) -> None:
    image, other = png(9, 7), png(7, 9)
    old_id = dead(api, image=image)
    with api.around.database.begin() as session:
        key = session.scalars(text("SELECT source_key FROM jobs")).one()
    api.around.store.put(key, BytesIO(other), len(other), "image/png")
    refused = api.one.post(f"/v1/jobs/{old_id}/replay")
    assert (refused.status_code, refused.json["code"]) == (503, "store_unavailable")
    assert [job["id"] for job in api.one.get("/v1/jobs").json["items"]] == [old_id]
    api.around.store.put(key, BytesIO(image), len(image), "image/png")
    assert api.one.post(f"/v1/jobs/{old_id}/replay").status_code == 202


def test_a_replay_that_is_sent_twice_under_one_key_is_one_job(api: ApiWorld) -> None:
    old_id, other_id = dead(api), dead(api)
    api.one.headers["Idempotency-Key"] = "again"
    first, second = (api.one.post(f"/v1/jobs/{old_id}/replay") for _ in range(2))
    assert first.json["id"] == second.json["id"]
    refused = api.one.post(f"/v1/jobs/{other_id}/replay")
    assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_reused")


def test_only_what_failed_or_expired_is_replayed(api: ApiWorld) -> None:
    queued = api.one.submit()
    refused = api.one.post(f"/v1/jobs/{queued}/replay")
    assert (refused.status_code, refused.json["code"]) == (409, "job_not_replayable")
    done = api.succeed_next()
    assert api.one.post(f"/v1/jobs/{done}/replay").json["code"] == "job_not_replayable"


def test_a_replay_needs_room_its_model_and_its_image(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(max_open_jobs_per_tenant=1)
    old_id = dead(world, model=world.around.settings.model)
    world.one.submit()
    refused = world.one.post(f"/v1/jobs/{old_id}/replay")
    assert (refused.status_code, refused.json["code"]) == (429, "too_many_open_jobs")
    world.fail_next()
    with world.around.database.begin() as session:
        session.execute(text("UPDATE jobs SET model = 'RETIRED' WHERE id = :id"), {"id": old_id})
    assert world.one.post(f"/v1/jobs/{old_id}/replay").json["code"] == "unknown_model"
    with world.around.database.begin() as session:
        session.execute(text("UPDATE jobs SET model = NULL WHERE id = :id"), {"id": old_id})
        tenant_id = session.scalar(text("SELECT id::text FROM tenants WHERE name = 'one'"))
    world.around.store.delete(source_key(UUID(tenant_id), UUID(old_id)))
    gone = world.one.post(f"/v1/jobs/{old_id}/replay")
    assert (gone.status_code, gone.json["code"]) == (404, "artifact_not_found")


@pytest.mark.parametrize("how", ["queued", "running"])
def test_a_job_that_has_not_ended_is_not_deleted(api: ApiWorld, how: str) -> None:
    job_id = api.one.submit()
    if how == "running":
        api.claim()
    refused = api.one.delete(f"/v1/jobs/{job_id}")
    assert (refused.status_code, refused.json["code"]) == (409, "job_not_ended")
    api.one.post(f"/v1/jobs/{job_id}/cancel")
    assert api.one.delete(f"/v1/jobs/{job_id}").status_code == 204


def test_a_deleted_job_is_gone_with_its_bytes_and_its_webhooks(api: ApiWorld) -> None:
    api.one.add_endpoint()
    api.one.headers["Idempotency-Key"] = "upload-7"
    api.one.submit()
    job_id = api.succeed_next()
    assert api.one.delete(f"/v1/jobs/{job_id}").status_code == 204
    for method, path in (("GET", ""), ("GET", "/artifacts/source"), ("POST", "/replay"), ("DELETE", "")):
        assert api.one.open(f"/v1/jobs/{job_id}{path}", method).status_code == 404
    assert api.one.get("/v1/webhook-deliveries").json["items"] == []
    with api.around.database.begin() as session:
        tenant_id = session.scalar(text("SELECT id::text FROM tenants WHERE name = 'one'"))
        assert session.scalar(text("SELECT count(*) FROM erasures")) == 0
    assert api.around.store.keys(f"{tenant_id}/") == []
    assert api.one.submit() != job_id  # its key names nothing any more


def test_a_job_is_deleted_though_the_store_is_away_and_its_bytes_wait(
    api: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.one.submit()
    job_id = api.fail_next()
    away = ObjectStore(api.around.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"}))
    monkeypatch.setattr(api.around.store, "keys", away.keys)
    assert api.one.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert api.one.get(f"/v1/jobs/{job_id}").status_code == 404
    with api.around.database.begin() as session:
        assert session.scalars(text("SELECT job_id::text FROM erasures")).all() == [job_id]
        session.execute(text("DELETE FROM erasures"))


def test_nobody_elses_job_is_deleted(api: ApiWorld) -> None:
    api.one.submit()
    job_id = api.fail_next()
    foreign, missing = (api.other.delete(f"/v1/jobs/{each}") for each in (job_id, uuid4()))
    assert foreign.status_code == missing.status_code == 404
    assert api.one.get(f"/v1/jobs/{job_id}").status_code == 200
