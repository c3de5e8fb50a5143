"""What a tenant can change of its webhook endpoints, and what their receivers then get."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text
from standardwebhooks import Webhook, WebhookVerificationError

from shared.domain import EVENT_TYPES
from tests.support.api_world import Answer, ApiWorld
from tests.support.receivers import Received, Receiver
from tests.support.waiting import until
from worker.egress.http_client import Egress
from worker.webhooks.sender import WebhookSender


@pytest.fixture
def sender(api: ApiWorld) -> Iterator[WebhookSender]:
    running = WebhookSender(api.around.database, Egress(["127.0.0.1"]), api.around.vault)
    yield running
    running.close()


def endpoint(api: ApiWorld, url: str = "https://receiver.example/hook", **fields: Any) -> dict[str, Any]:
    return api.one.add_endpoint(url, **fields)


def path_of(made: dict[str, Any]) -> str:
    return f"/v1/webhook-endpoints/{made['id']}"


def change(api: ApiWorld, made: dict[str, Any], **changes: Any) -> Answer:
    return api.one.open(path_of(made), "PATCH", json=changes)


def told_of(api: ApiWorld, prediction: str) -> int:
    """End a job with this prediction; return how many deliveries tell of it."""
    api.one.submit()
    job = api.succeed_next(changes={"prediction": prediction})
    return len(api.one.get(f"/v1/webhook-deliveries?job_id={job}").json["items"])


def arrived(receiver: Receiver, sender: WebhookSender, count: int = 1) -> list[Received]:
    sender.deliver_due()
    until(lambda: len(receiver.received) >= count)
    return receiver.received


def move(api: ApiWorld, made: dict[str, Any], url: str) -> None:
    """Have an endpoint be at a receiver of this machine, which the API would refuse."""
    with api.around.database.begin() as session:
        moved = {"url": url, "id": made["id"]}
        session.execute(text("UPDATE webhook_endpoints SET url = :url WHERE id = :id"), moved)


def test_only_what_is_named_is_changed(api: ApiWorld) -> None:
    made = endpoint(api, event_types=["job.failed"], description="old words")
    changes: dict[str, Any]
    for changes in (
        {"url": "https://elsewhere.example/"},
        {"event_types": ["job.succeeded", "webhook_endpoint.disabled"]},
        {"predictions": ["FAKE"]},
        {"description": "new words"},
        {"predictions": None, "description": None},
        {},
    ):
        before = api.one.get(path_of(made)).json
        changed = change(api, made, **changes)
        assert (changed.status_code, changed.json) == (200, before | changes)
        assert api.one.get(path_of(made)).json == changed.json


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"url": None}, "invalid_field", "url"),
        ({"url": ""}, "invalid_field", "url"),
        ({"url": "http://127.0.0.1/"}, "url_not_allowed", None),
        ({"event_types": None}, "invalid_field", "event_types"),
        ({"event_types": []}, "invalid_field", "event_types"),
        ({"event_types": ["job.lost"]}, "invalid_field", "event_types"),
        ({"predictions": []}, "invalid_field", "predictions"),
        ({"predictions": ["fake"]}, "invalid_field", "predictions"),
        ({"description": "x" * 201}, "invalid_field", "description"),
        ({"description": "a\nb"}, "invalid_field", "description"),
        ({"secret": "whsec_"}, "invalid_field", "secret"),
        ({"signature": "ed25519"}, "invalid_field", "signature"),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(
    api: ApiWorld, changes: dict[str, Any], code: str, field: str | None
) -> None:
    made = endpoint(api)
    before = api.one.get(path_of(made)).json
    refused = change(api, made, **changes)
    assert (refused.status_code, refused.json["code"]) == (422, code)
    if field is not None:
        assert refused.json["errors"][0]["field"].split(".")[0] == field
    assert api.one.get(path_of(made)).json == before


def test_an_endpoint_is_told_of_the_predictions_that_it_wants(api: ApiWorld) -> None:
    made = endpoint(api, predictions=["FAKE", "INCONCLUSIVE", "FAKE"])
    assert made["predictions"] == ["FAKE", "INCONCLUSIVE"]
    assert [told_of(api, each) for each in ("FAKE", "REAL", "INCONCLUSIVE")] == [1, 0, 1]
    change(api, made, predictions=["REAL"])
    assert [told_of(api, each) for each in ("FAKE", "REAL")] == [0, 1]
    api.one.submit()  # how a job without a verdict ends is a matter of event_types alone
    failed = api.fail_next()
    assert len(api.one.get(f"/v1/webhook-deliveries?job_id={failed}").json["items"]) == 1


def test_until_the_overlap_is_over_both_secrets_sign(api: ApiWorld, receiver: Receiver, sender: WebhookSender) -> None:
    made = endpoint(api)
    rotated = api.one.post(f"{path_of(made)}/rotate-secret", json={"overlap_seconds": 3600})
    assert rotated.status_code == 200
    assert rotated.json["secret"] != made["secret"]
    left = datetime.fromisoformat(rotated.json["old_secret_until"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left < timedelta(minutes=61)
    assert "secret" not in api.one.get(path_of(made)).json
    move(api, made, receiver.url("/200"))
    told_of(api, "FAKE")
    [message] = arrived(receiver, sender)
    for secret in (made["secret"], rotated.json["secret"]):
        assert Webhook(secret).verify(message.body, message.headers)
    with api.around.database.begin() as session:
        session.execute(text("UPDATE webhook_endpoints SET old_secret_until = now()"))
    told_of(api, "FAKE")
    message = arrived(receiver, sender, 2)[1]
    assert Webhook(rotated.json["secret"]).verify(message.body, message.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(message.body, message.headers)


def test_without_an_overlap_the_old_secret_ends_at_once(
    api: ApiWorld, receiver: Receiver, sender: WebhookSender
) -> None:
    made = endpoint(api)
    rotated = api.one.post(f"{path_of(made)}/rotate-secret", json={"overlap_seconds": 0}).json
    move(api, made, receiver.url("/200"))
    told_of(api, "FAKE")
    [message] = arrived(receiver, sender)
    assert " " not in message.headers["webhook-signature"]
    assert Webhook(rotated["secret"]).verify(message.body, message.headers)


def test_an_endpoint_with_a_key_pair_is_verified_by_its_public_key(
    api: ApiWorld, receiver: Receiver, sender: WebhookSender
) -> None:
    made = endpoint(api, signature="ed25519")
    assert (made["signature"], made["secret"]) == ("ed25519", None)
    rotated = api.one.post(f"{path_of(made)}/rotate-secret", json={}).json
    assert rotated["public_key"] != made["public_key"]
    assert api.one.get(path_of(made)).json["public_key"] == rotated["public_key"]
    move(api, made, receiver.url("/200"))
    told_of(api, "FAKE")
    [message] = arrived(receiver, sender)
    signed = f"{message.headers['webhook-id']}.{message.headers['webhook-timestamp']}.".encode() + message.body
    signatures = [each.removeprefix("v1a,") for each in message.headers["webhook-signature"].split(" ")]
    for key, signature in zip([rotated["public_key"], made["public_key"]], signatures, strict=True):
        verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
        verifier.verify(base64.b64decode(signature), signed)
        with pytest.raises(InvalidSignature):
            verifier.verify(base64.b64decode(signature), signed + b" ")


def test_a_test_message_takes_the_way_of_all_messages(api: ApiWorld, receiver: Receiver, sender: WebhookSender) -> None:
    made = endpoint(api, event_types=["job.failed"])
    move(api, made, receiver.url("/200"))
    accepted = api.one.post(f"{path_of(made)}/test")
    assert (accepted.status_code, accepted.json["event_type"]) == (202, "webhook_endpoint.test")
    [message] = arrived(receiver, sender)
    assert Webhook(made["secret"]).verify(message.body, message.headers)
    document = json.loads(message.body)
    assert (document["type"], document["data"]["id"]) == ("webhook_endpoint.test", made["id"])
    assert "secret" not in document["data"]
    path = f"/v1/webhook-deliveries/{accepted.json['id']}"
    until(lambda: api.one.get(path).json["state"] == "delivered")
    assert api.one.get(path).json["job_id"] is None
    for _ in range(2):  # as often as is asked for
        assert api.one.post(f"{path_of(made)}/test").status_code == 202


def test_what_failed_since_a_time_is_sent_again(api: ApiWorld) -> None:
    made, other = endpoint(api), endpoint(api)
    for _ in range(3):
        told_of(api, "FAKE")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    with api.around.database.begin() as session:
        session.execute(
            text("UPDATE webhook_deliveries SET state = 'failed', finished_at = now(), next_attempt_at = NULL")
        )
        mine = text("SELECT id FROM webhook_deliveries WHERE endpoint_id = :id")
        for number, delivery in enumerate(session.scalars(mine, {"id": made["id"]}).all()):
            moved = {"id": delivery, "at": moment + timedelta(days=number)}
            session.execute(text("UPDATE webhook_deliveries SET created_at = :at WHERE id = :id"), moved)

    def recover(since: datetime) -> Answer:
        return api.one.post(f"{path_of(made)}/recover", json={"since": since.isoformat()})

    def pending() -> list[dict[str, Any]]:
        return list(api.one.get("/v1/webhook-deliveries?state=pending").json["items"])

    later = recover(moment + timedelta(days=1))
    assert (later.status_code, later.json) == (202, {"count": 2})
    assert {each["endpoint_id"] for each in pending()} == {made["id"]}
    assert all(each["next_attempt_at"] for each in pending())
    assert recover(moment).json == {"count": 1}
    assert recover(moment).json == {"count": 0}
    assert len(pending()) == 3
    assert other["id"] not in {each["endpoint_id"] for each in pending()}


@pytest.mark.parametrize(("action", "body"), [("test", None), ("recover", {"since": "2026-01-01T00:00:00Z"})])
def test_nothing_is_sent_to_an_endpoint_that_is_disabled(api: ApiWorld, action: str, body: object) -> None:
    made = endpoint(api)
    with api.around.database.begin() as session:
        session.execute(text("UPDATE webhook_endpoints SET disabled_at = now()"))
    refused = api.one.post(f"{path_of(made)}/{action}", json=body)
    assert (refused.status_code, refused.json["code"]) == (409, "endpoint_disabled")


def test_other_endpoints_are_told_that_one_was_disabled(
    api: ApiWorld, receiver: Receiver, sender: WebhookSender
) -> None:
    gone = endpoint(api, event_types=["job.succeeded", "webhook_endpoint.disabled"])
    watching = endpoint(api, event_types=["webhook_endpoint.disabled"])
    endpoint(api, event_types=["job.failed"])
    api.other.add_endpoint()
    for made, path in ((gone, "/410"), (watching, "/200")):
        move(api, made, receiver.url(path))
    told_of(api, "FAKE")
    sender.deliver_due()
    until(lambda: api.one.get(path_of(gone)).json["disabled_at"] is not None)
    sender.deliver_due()
    until(lambda: any(message.path == "/200" for message in receiver.received))
    [message] = [message for message in receiver.received if message.path == "/200"]
    document = json.loads(message.body)
    assert document["type"] == "webhook_endpoint.disabled"
    assert (document["data"]["id"], "410" in document["data"]["disabled_reason"]) == (gone["id"], True)
    with api.around.database.begin() as session:
        told = session.scalars(text("SELECT event_type FROM webhook_deliveries WHERE job_id IS NULL")).all()
    assert told == ["webhook_endpoint.disabled"]


def test_a_new_endpoint_wants_all_that_there_is(api: ApiWorld) -> None:
    assert endpoint(api)["event_types"] == [*EVENT_TYPES]
