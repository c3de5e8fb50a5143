"""What the server's secret key protects: the hashes of API keys, and webhook secrets at rest."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import DistildireError


class SecretKeyChangedError(DistildireError):
    """A stored secret cannot be read: DISTILDIRE_SECRET_KEY is not the key that it was written with. Put it back."""


class Vault:
    """One secret key, split into one purpose's key each by HKDF (RFC 5869)."""

    def __init__(self, secret_key: str) -> None:
        self._hash_key = _derive(secret_key, b"api-key-hash")
        self._fernet = Fernet(base64.urlsafe_b64encode(_derive(secret_key, b"webhook-secret")))

    def keyed_hash(self, value: str) -> bytes:
        """Return HMAC-SHA256 of `value`: 32 bytes that are worth nothing without the secret key."""
        return hmac.digest(self._hash_key, value.encode(), hashlib.sha256)

    def encrypt(self, value: str) -> bytes:
        """Return `value` encrypted and authenticated (Fernet)."""
        return self._fernet.encrypt(value.encode())

    def decrypt(self, token: bytes) -> str:
        """Undo `encrypt`; raise `SecretKeyChangedError` where another key wrote it."""
        try:
            return self._fernet.decrypt(token).decode()
        except InvalidToken as error:
            raise SecretKeyChangedError from error


def _derive(secret_key: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret_key.encode())
