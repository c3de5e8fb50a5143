"""Webhook endpoints and the log of deliveries over HTTP."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from api.v1.webhooks import MOST_ENDPOINTS
from shared.domain import EVENT_TYPES
from shared.webhooks.deliveries import ClaimedDelivery, Try, claim_due, record_try
from shared.webhooks.retry_schedule import Decision, Delivered, Disable, Failed, Retry
from tests.support.api_world import ApiWorld


def test_an_endpoint_shows_its_secret_once(api: ApiWorld) -> None:
    made = api.one.add_endpoint("https://receiver.example/hook?a=b")
    assert made["secret"].startswith("whsec_")
    assert sorted(made["event_types"]) == sorted(EVENT_TYPES)
    shown = api.one.get(f"/v1/webhook-endpoints/{made['id']}").json
    listed = api.one.get("/v1/webhook-endpoints").json["items"]
    del made["secret"]
    assert shown == made
    assert listed == [made]


def test_a_deleted_endpoint_is_gone(api: ApiWorld) -> None:
    path = f"/v1/webhook-endpoints/{api.one.add_endpoint()['id']}"
    assert api.one.delete(path).status_code == 204
    assert api.one.get(path).status_code == 404
    assert api.one.delete(path).status_code == 404


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "https://localhost/hook",
        "http://169.254.169.254/latest/meta-data",
        "https://10.0.0.8/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "ftp://receiver.example/",
        "file:///etc/passwd",
        "https://user:pass@receiver.example/",
        "https://",
        "receiver.example",
        "https://" + "a" * 300 + ".example/",
    ],
)
def test_a_url_that_may_not_be_called_is_refused(api: ApiWorld, url: str) -> None:
    response = api.one.post("/v1/webhook-endpoints", json={"url": url})
    assert (response.status_code, response.json["code"]) == (422, "url_not_allowed")
    assert api.one.get("/v1/webhook-endpoints").json["items"] == []


def test_the_operator_can_allow_a_private_receiver(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(egress_allow=("127.0.0.1:9000",))
    assert world.one.add_endpoint("http://127.0.0.1:9000/hook")
    assert world.one.add_endpoint("http://localhost:9000/hook")
    assert world.one.post("/v1/webhook-endpoints", json={"url": "http://127.0.0.1:9001/"}).status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": 5}, "url"),
        ({"url": ""}, "url"),
        ({"url": "https://a.example/" + "x" * 2000}, "url"),
        ({"url": "https://a.example/\0"}, "url"),
        ({"url": "https://a.example/", "event_types": []}, "event_types"),
        ({"url": "https://a.example/", "event_types": ["job.lost"]}, "event_types.0"),
        ({"url": "https://a.example/", "secret": "whsec_mine"}, "secret"),
    ],
)
def test_a_wrong_endpoint_names_its_field(api: ApiWorld, body: dict[str, Any], field: str) -> None:
    response = api.one.post("/v1/webhook-endpoints", json=body)
    assert (response.status_code, response.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in response.json["errors"]] == [field]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 60_000, b'{"url": "\\ud800"}', b"5", b"null", b"[]"])
def test_a_body_that_is_no_json_object_is_refused(api: ApiWorld, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = api.one.post("/v1/webhook-endpoints", data=body, headers=headers)
    assert response.status_code in (400, 422)
    assert response.mimetype == "application/problem+json"


def test_a_json_body_beyond_what_an_endpoint_needs_is_refused(api: ApiWorld) -> None:
    response = api.one.post("/v1/webhook-endpoints", json={"url": "https://a.example/" + "x" * 100_000})
    assert (response.status_code, response.json["code"]) == (413, "body_too_large")


def test_a_tenant_has_a_limited_number_of_endpoints(api: ApiWorld) -> None:
    for _ in range(MOST_ENDPOINTS):
        api.one.add_endpoint()
    response = api.one.post("/v1/webhook-endpoints", json={"url": "https://a.example/"})
    assert (response.status_code, response.json["code"]) == (409, "too_many_endpoints")
    assert api.other.add_endpoint()


def test_the_limit_of_endpoints_holds_however_many_are_made_at_once(api: ApiWorld) -> None:
    together = threading.Barrier(8)

    def make(_: int) -> list[int]:
        together.wait()
        return [api.one.post("/v1/webhook-endpoints", json={"url": "https://a.example/"}).status_code for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        answers = Counter(status for statuses in pool.map(make, range(8)) for status in statuses)
    assert answers == {201: MOST_ENDPOINTS, 409: 40 - MOST_ENDPOINTS}
    assert len(api.one.get("/v1/webhook-endpoints").json["items"]) == MOST_ENDPOINTS


def test_a_delivery_that_ended_is_sent_anew_under_the_same_id_and_by_the_whole_schedule(api: ApiWorld) -> None:
    api.one.add_endpoint()
    api.one.submit()
    api.fail_next()
    path = f"/v1/webhook-deliveries/{api.one.get('/v1/webhook-deliveries').json['items'][0]['id']}"
    assert _refused(api, f"{path}/resend") == (409, "delivery_pending")
    first = _claim(api)
    _record(api, first, Failed(), 500)
    assert api.one.get(path).json["state"] == "failed"
    answer = api.one.post(f"{path}/resend")
    assert answer.status_code == 202
    shown = answer.json
    assert (shown["state"], shown["finished_at"], len(shown["attempts"])) == ("pending", None, 1)
    assert shown["next_attempt_at"] is not None
    second = _claim(api)
    assert (second.id, second.attempt, second.planned_try) == (first.id, 2, 1)
    assert (second.body, second.message_id) == (first.body, shown["webhook_id"])
    _record(api, second, Delivered(), 200)
    assert api.one.get(path).json["state"] == "delivered"
    assert api.one.post(f"{path}/resend").status_code == 202


def test_an_endpoint_that_was_gone_is_enabled_again_and_what_was_given_up_is_sent_when_asked_for(api: ApiWorld) -> None:
    path = f"/v1/webhook-endpoints/{api.one.add_endpoint()['id']}"
    api.one.submit()
    api.fail_next()
    claimed = _claim(api)
    _record(api, claimed, Disable("The receiver answered 410 Gone."), 410)
    assert api.one.get(path).json["disabled_reason"] == "The receiver answered 410 Gone."
    assert api.one.get(path).json["failing_since"] is not None
    resend = f"/v1/webhook-deliveries/{claimed.id}/resend"
    assert _refused(api, resend) == (409, "endpoint_disabled")
    for _ in range(2):
        enabled = api.one.post(f"{path}/enable")
        assert enabled.status_code == 200
        assert (enabled.json["disabled_at"], enabled.json["disabled_reason"]) == (None, None)
        assert enabled.json["failing_since"] is None
    assert api.one.get(f"/v1/webhook-deliveries/{claimed.id}").json["state"] == "failed"
    assert api.one.post(resend).status_code == 202
    assert _claim(api).id == claimed.id


def test_with_an_endpoint_the_log_of_what_was_sent_to_it_is_gone_at_once(api: ApiWorld) -> None:
    gone, kept = (api.one.add_endpoint(event_types=["job.failed"])["id"] for _ in range(2))
    api.one.submit()
    job_id = api.fail_next()
    ids = {item["endpoint_id"]: item["id"] for item in api.one.get("/v1/webhook-deliveries").json["items"]}
    assert api.one.delete(f"/v1/webhook-endpoints/{gone}").status_code == 204
    assert [each["id"] for each in api.one.get("/v1/webhook-endpoints").json["items"]] == [kept]
    for query in ("", f"?job_id={job_id}", "?state=pending"):
        listed = api.one.get(f"/v1/webhook-deliveries{query}").json["items"]
        assert [item["endpoint_id"] for item in listed] == [kept], query
    for query in (f"?endpoint_id={gone}", f"?endpoint_id={gone}&state=pending"):
        assert api.one.get(f"/v1/webhook-deliveries{query}").json["items"] == []
    for path in (f"webhook-deliveries/{ids[gone]}", f"webhook-endpoints/{gone}"):
        assert api.one.get(f"/v1/{path}").status_code == 404
    for path in (f"webhook-deliveries/{ids[gone]}/resend", f"webhook-endpoints/{gone}/enable"):
        assert api.one.post(f"/v1/{path}").status_code == 404
    assert _claim(api).id == UUID(ids[kept])
    for _ in range(19):
        api.one.add_endpoint()  # a deleted one takes no place


def test_an_endpoint_says_since_when_it_fails(api: ApiWorld) -> None:
    path = f"/v1/webhook-endpoints/{api.one.add_endpoint()['id']}"
    for _ in range(3):
        api.one.submit()
        api.fail_next()
    assert api.one.get(path).json["failing_since"] is None
    _record_failure(api, _claim(api))
    since = api.one.get(path).json["failing_since"]
    assert since is not None
    _record_failure(api, _claim(api))
    assert api.one.get(path).json["failing_since"] == since
    _record(api, _claim(api), Delivered(), 200)
    assert api.one.get(path).json["failing_since"] is None


def test_deliveries_show_each_try_and_can_be_filtered(api: ApiWorld) -> None:
    first, second = (api.one.add_endpoint(event_types=["job.failed"]) for _ in range(2))
    api.one.submit()
    job_id = api.fail_next()
    claimed = _claim(api)
    _record_failure(api, claimed)
    tried = api.one.get(f"/v1/webhook-deliveries/{claimed.id}").json
    assert tried["webhook_id"] == claimed.message_id
    assert (tried["job_id"], tried["event_type"], tried["state"]) == (job_id, "job.failed", "pending")
    assert [(attempt["attempt"], attempt["status"]) for attempt in tried["attempts"]] == [(1, 500)]
    listed = api.one.get("/v1/webhook-deliveries").json["items"]
    assert {item["endpoint_id"] for item in listed} == {first["id"], second["id"]}
    assert tried in listed
    for query, count in (
        (f"endpoint_id={first['id']}", 1),
        (f"job_id={job_id}", 2),
        (f"job_id={uuid4()}", 0),
        ("state=pending", 2),
        ("state=delivered", 0),
    ):
        assert len(api.one.get(f"/v1/webhook-deliveries?{query}").json["items"]) == count, query


def test_the_log_of_deliveries_is_paged(api: ApiWorld) -> None:
    for _ in range(3):
        api.one.add_endpoint()
    api.one.submit()
    api.fail_next()
    seen: list[str] = []
    path: str | None = "/v1/webhook-deliveries?limit=1"
    while path:
        page = api.one.get(path).json
        seen += [item["id"] for item in page["items"]]
        path = page["links"]["next"]
    assert len(set(seen)) == len(seen) == 3


def _claim(api: ApiWorld) -> ClaimedDelivery:
    claimed = claim_due(api.around.database, lease=timedelta(seconds=30), per_endpoint=5)
    assert claimed is not None
    return claimed


def _record(api: ApiWorld, claimed: ClaimedDelivery, decision: Decision, status: int) -> None:
    tried = Try(started_at=datetime.now(UTC), duration_ms=12, status=status, response_excerpt="no")
    with api.around.database.begin() as session:
        record_try(session, claimed, tried, decision)


def _record_failure(api: ApiWorld, claimed: ClaimedDelivery) -> None:
    _record(api, claimed, Retry(at=datetime.now(UTC) + timedelta(seconds=5)), 500)


def _refused(api: ApiWorld, path: str) -> tuple[int, str]:
    answer = api.one.post(path)
    return answer.status_code, answer.json["code"]


@pytest.mark.parametrize("url", ["http://receiver.example/hook", "http://receiver.example:8443/", "HTTP://a.example"])
def test_plain_http_is_refused_when_the_endpoint_is_made(api: ApiWorld, url: str) -> None:
    refused = api.one.post("/v1/webhook-endpoints", json={"url": url})
    assert (refused.status_code, refused.json["code"]) == (422, "url_not_allowed")
    assert "https://" in refused.json["detail"]


@pytest.mark.parametrize("entry", ["receiver.internal:8080", "10.0.0.0/8"])
def test_plain_http_is_for_receivers_that_the_operator_allows(api_with: Callable[..., ApiWorld], entry: str) -> None:
    world = api_with(egress_allow=(entry,))
    made = world.one.post("/v1/webhook-endpoints", json={"url": "http://receiver.internal:8080/hook"})
    assert made.status_code == 201


def test_the_document_describes_what_is_sent(api: ApiWorld) -> None:
    described = api.anonymous.get("/openapi.json").json["webhooks"]
    of_jobs = {"job.succeeded", "job.failed", "job.canceled", "job.expired"}
    assert set(described) == of_jobs | {"webhook_endpoint.disabled", "webhook_endpoint.test"}
    operation = described["job.succeeded"]["post"]
    assert {each["name"] for each in operation["parameters"]} == {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/WebhookBody"
    }
