"""Signatures, judged by the reference verifier that others publish."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from shared.webhooks.signatures import SigningError, new_key_pair, new_secret, sign, signed_headers

BODY = '{"type": "job.succeeded", "data": {"naïve": "✓"}}'.encode()


def test_the_specification_s_worked_example_comes_out() -> None:
    """The example of the specification's reference implementations."""
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(max_size=200).map(lambda raw: b'{"x": "' + base64.b64encode(raw) + b'"}'))
def test_the_outside_verifier_accepts_what_is_signed(body: bytes) -> None:
    secret = new_secret()
    headers = signed_headers([secret], "msg_1", datetime.now(UTC), body)
    assert headers.keys() == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert Webhook(secret).verify(body, headers) is not None


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    moment = datetime.now(UTC)
    elsewhere = moment.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert signed_headers(["whsec_" + "A" * 40], "msg_1", elsewhere, BODY) == signed_headers(
        ["whsec_" + "A" * 40], "msg_1", moment, BODY
    )


@pytest.mark.parametrize("changed", ["body", "id", "timestamp", "secret"])
def test_the_outside_verifier_refuses_what_was_changed(changed: str) -> None:
    secret, now = new_secret(), datetime.now(UTC)
    headers = signed_headers([secret], "msg_1", now, BODY)
    if changed == "id":
        headers["webhook-id"] = "msg_2"
    if changed == "timestamp":
        headers["webhook-timestamp"] = str(int(now.timestamp()) - 1)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret() if changed == "secret" else secret).verify(
            BODY + b" " if changed == "body" else BODY, headers
        )


def test_new_secrets_are_distinct_and_of_the_specified_form() -> None:
    made = {new_secret() for _ in range(50)}
    assert len(made) == 50
    for secret in made:
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        ("", "must begin with whsec_"),
        ("whsec_", "must hold 24 to 64 bytes"),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "must begin with whsec_"),
        ("whsec_short", "must be base64 after whsec_"),
        ("whsec_????" + "A" * 40, "must be base64 after whsec_"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "must hold 24 to 64 bytes"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "must hold 24 to 64 bytes"),
    ],
)
def test_a_malformed_secret_is_refused_with_the_reason_and_not_repeated(secret: str, complaint: str) -> None:
    with pytest.raises(SigningError, match=complaint) as caught:
        sign(secret, "msg_1", datetime.now(UTC), BODY)
    assert len(secret) <= len("whsec_") or secret not in str(caught.value)


@pytest.mark.parametrize("length", [24, 64])
def test_a_secret_of_the_shortest_and_of_the_longest_kind_signs(length: int) -> None:
    secret, now = "whsec_" + base64.b64encode(bytes(length)).decode(), datetime.now(UTC)
    Webhook(secret).verify(BODY, signed_headers([secret], "msg_1", now, BODY))


def test_an_id_with_a_full_stop_and_a_time_without_a_zone_are_refused() -> None:
    with pytest.raises(SigningError, match="full stop"):
        sign(new_secret(), "msg.1", datetime.now(UTC), BODY)
    with pytest.raises(SigningError, match="time zone"):
        sign(new_secret(), "msg_1", datetime(2026, 1, 1), BODY)  # noqa: DTZ001  # that is what is refused


def test_a_key_pair_signs_what_its_public_key_verifies() -> None:
    private, public = new_key_pair()
    now = datetime.now(UTC)
    version, _, signature = sign(private, "msg_1", now, BODY).partition(",")
    assert (version, private[:5], public[:5]) == ("v1a", "whsk_", "whpk_")
    verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    signed = f"msg_1.{int(now.timestamp())}.".encode() + BODY
    verifier.verify(base64.b64decode(signature), signed)
    with pytest.raises(InvalidSignature):
        verifier.verify(base64.b64decode(signature), signed + b" ")
    assert new_key_pair()[0] != private


@pytest.mark.parametrize("private", ["whsk_", "whsk_????", "whsk_" + base64.b64encode(bytes(31)).decode()])
def test_a_malformed_private_key_is_refused_and_not_repeated(private: str) -> None:
    with pytest.raises(SigningError, match="private key") as caught:
        sign(private, "msg_1", datetime.now(UTC), BODY)
    assert len(private) <= len("whsk_") or private not in str(caught.value)


def test_each_secret_signs_and_each_alone_verifies() -> None:
    old, new, now = new_secret(), new_secret(), datetime.now(UTC)
    headers = signed_headers([new, old], "msg_1", now, BODY)
    assert headers["webhook-signature"].count(" ") == 1
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, headers) is not None
