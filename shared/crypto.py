"""Cryptography with the server's secret key: it keys the hashes of API keys and encrypts webhook secrets at rest."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import DistildireError


class SecretKeyChangedError(DistildireError):
    """A stored secret cannot be read: it was encrypted with another DISTILDIRE_SECRET_KEY. Restore that key."""


class Vault:
    """One secret key, from which HKDF (RFC 5869) derives a separate key for each purpose."""

    def __init__(self, secret_key: str) -> None:
        self._hash_key = _derive(secret_key, b"api-key-hash")
        self._fernet = Fernet(base64.urlsafe_b64encode(_derive(secret_key, b"webhook-secret")))

    def keyed_hash(self, value: str) -> bytes:
        """Return HMAC-SHA256 of `value`: 32 bytes that reveal nothing without the secret key."""
        return hmac.digest(self._hash_key, value.encode(), hashlib.sha256)

    def encrypt(self, value: str) -> bytes:
        """Return `value` encrypted and authenticated (Fernet)."""
        return self._fernet.encrypt(value.encode())

    def decrypt(self, token: bytes) -> str:
        """Undo `encrypt`; raise `SecretKeyChangedError` if the token was encrypted with another key."""
        try:
            return self._fernet.decrypt(token).decode()
        except InvalidToken as error:
            raise SecretKeyChangedError from error


def _derive(secret_key: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret_key.encode())
