"""A client that does not know whether its submission arrived sends it again, and has one job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from api.problems.table import IDEMPOTENCY_KEY_REUSED
from shared.storage.object_store import source_key
from tests.support.api_world import Answer, ApiWorld, Tenant, png

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
SOON = 10.0


def post(tenant: Tenant, image: bytes | None = None, key: str = KEY, **fields: Any) -> Answer:
    tenant.headers["Idempotency-Key"] = key
    return tenant.post_form(image or png(), **fields)


def listed(tenant: Tenant) -> list[str]:
    return [job["id"] for job in tenant.get("/v1/jobs").json["items"]]


def sources(api: ApiWorld) -> list[str]:
    """The uploads that lie in the store for the tenants of this test."""
    with api.around.database.begin() as session:
        tenants = session.scalars(text("SELECT id::text FROM tenants")).all()
    return [key for tenant in tenants for key in api.around.store.keys(f"{tenant}/")]


def test_the_same_submission_under_one_key_is_one_job(api: ApiWorld) -> None:
    first = post(api.one, metadata='{"post": 7, "big": 1e300}', overlay="false")
    again = post(api.one, metadata='{ "big": 1E+300, "post": 7 }', overlay="0", heatmap="true")
    assert first.status_code == again.status_code == 202
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]
    assert listed(api.one) == [first.json["id"]]
    assert len(sources(api)) == 1


def test_a_submission_that_comes_again_after_its_job_ended_says_so_and_stores_nothing(
    api: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = post(api.one)
    api.succeed_next()
    monkeypatch.delattr(type(api.around.store), "put")
    again = post(api.one)
    assert (again.status_code, again.json["id"], again.json["status"]) == (202, first.json["id"], "succeeded")


@pytest.mark.parametrize(
    "other", [{"image": png(9, 9)}, {"overlay": "false"}, {"metadata": '{"post": 8}'}, {"model": "DISTILDIRE-DEMO"}]
)
def test_a_key_that_comes_with_something_else_is_refused(api: ApiWorld, other: dict[str, Any]) -> None:
    first = post(api.one, metadata='{"post": 7}')
    refused = post(api.one, **{"metadata": '{"post": 7}', **other})
    assert (refused.status_code, refused.json["code"]) == (422, IDEMPOTENCY_KEY_REUSED.code)
    assert listed(api.one) == [first.json["id"]]
    assert len(sources(api)) == 1


def test_another_key_another_tenant_and_no_key_are_other_submissions(api: ApiWorld) -> None:
    answers = [post(api.one), post(api.one, key=KEY.upper()), post(api.other)]
    del api.one.headers["Idempotency-Key"]
    answers += [api.one.post_form(png()) for _ in range(2)]
    assert len({answer.json["id"] for answer in answers}) == 5


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "tab\tinside"])
def test_a_key_that_is_none_is_refused(api: ApiWorld, key: str) -> None:
    refused = post(api.one, key=key)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in refused.json["errors"]] == ["Idempotency-Key"]
    assert listed(api.one) == []


@pytest.mark.parametrize(("sizes", "statuses"), [((8, 8), [202, 202]), ((8, 9), [202, 422])])
def test_two_submissions_beside_each_other_under_one_key_are_one_job(
    api: ApiWorld, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int], statuses: list[int]
) -> None:
    """Both have looked for the key, and found it free, before either commits."""
    put, both = api.around.store.put, Barrier(2)

    def put_together(*arguments: Any) -> None:
        put(*arguments)
        both.wait(SOON)

    monkeypatch.setattr(api.around.store, "put", put_together)
    api.one.headers["Idempotency-Key"] = KEY
    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(lambda size: api.one.post_form(png(size, size)), sizes))
    assert sorted(answer.status_code for answer in answers) == statuses
    (job_id,) = listed(api.one)
    assert {answer.json["id"] for answer in answers if answer.status_code == 202} == {job_id}
    tenant_id, _, _ = api.claim()
    assert sources(api) == [source_key(tenant_id, UUID(job_id))]


def test_an_image_stays_where_nobody_knows_whether_its_job_was_committed(api: ApiWorld) -> None:
    """The connection ends in the commit; were the job there after all, it would have no image."""
    with api.around.database.begin() as session:
        session.execute(text(ENDS_IN_COMMIT))
    try:
        response = post(api.one)
    finally:
        with api.around.database.begin() as session:
            session.execute(text("DROP TRIGGER ends ON jobs; DROP FUNCTION ends()"))
    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")
    assert len(sources(api)) == 1
    assert listed(api.one) == []
    assert post(api.one).status_code == 202


ENDS_IN_COMMIT = """
CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER ends AFTER INSERT ON jobs INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ends();
"""
