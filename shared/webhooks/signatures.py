"""Signatures of webhooks, as Standard Webhooks 1.0 defines them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from datetime import datetime
from secrets import token_bytes

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import DistildireError

SECRET_PREFIX = "whsec_"  # noqa: S105  # the public beginning of every secret
#: What Ed25519 keys begin with.
PRIVATE_PREFIX, PUBLIC_PREFIX = "whsk_", "whpk_"
#: The specification allows keys of 24 to 64 bytes; 32 is the length of the digest.
_NEW_SECRET_BYTES = 32
_SECRET_BYTES = range(24, 65)


class SigningError(DistildireError):
    """The webhook cannot be signed: its secret, id or timestamp is malformed."""


def new_secret() -> str:
    """Return a new signing secret: `whsec_` and the base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(token_bytes(_NEW_SECRET_BYTES)).decode()


def new_key_pair() -> tuple[str, str]:
    """Return a new private key, `whsk_…`, and its public key, `whpk_…`: the base64 of 32 bytes each (Ed25519)."""
    private = Ed25519PrivateKey.generate()
    return (
        PRIVATE_PREFIX + base64.b64encode(private.private_bytes_raw()).decode(),
        PUBLIC_PREFIX + base64.b64encode(private.public_key().public_bytes_raw()).decode(),
    )


def sign(secret: str, message_id: str, timestamp: datetime, body: bytes) -> str:
    """Return one signature of `id.timestamp.body`, in base64.

    With a secret it is `v1,` and the HMAC-SHA256, with a private key `v1a,` and the Ed25519 signature. `timestamp` must
    have a time zone and is cut to whole seconds. `body` is signed byte for byte as it is sent. Raises `SigningError`
    for a malformed secret, for an id with a full stop and for a timestamp without a zone.
    """
    if "." in message_id:
        raise SigningError("A message id may not contain a full stop, which separates the parts that are signed.")
    content = f"{message_id}.{_seconds(timestamp)}.".encode() + body
    if secret.startswith(PRIVATE_PREFIX):
        return "v1a," + base64.b64encode(_private_key(secret).sign(content)).decode()
    return "v1," + base64.b64encode(hmac.digest(_key(secret), content, "sha256")).decode()


def signed_headers(secrets: Sequence[str], message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers of a webhook that is signed with each of `secrets`; errors are those of `sign`."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(_seconds(timestamp)),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in secrets),
    }


def _seconds(timestamp: datetime) -> int:
    if timestamp.utcoffset() is None:
        raise SigningError("A webhook's timestamp must have a time zone.")
    return int(timestamp.timestamp())


def _key(secret: str) -> bytes:
    """Decode a secret to the HMAC key; no error message repeats any part of the secret."""
    if not secret.startswith(SECRET_PREFIX):
        raise SigningError(f"A signing secret must begin with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise SigningError(f"A signing secret must be base64 after {SECRET_PREFIX}") from None
    if len(key) not in _SECRET_BYTES:
        raise SigningError("A signing secret must hold 24 to 64 bytes.")
    return key


def _private_key(secret: str) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(
            base64.b64decode(secret.removeprefix(PRIVATE_PREFIX), validate=True)
        )
    except ValueError:  # also binascii.Error
        raise SigningError(f"A private key must be the base64 of 32 bytes after {PRIVATE_PREFIX}") from None
