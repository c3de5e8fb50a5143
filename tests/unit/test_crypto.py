"""What the secret key protects."""

from __future__ import annotations

import pytest

from shared.crypto import SecretKeyChangedError, Vault

ONE, OTHER = Vault("one secret key of 32 characters!"), Vault("another secret key of 32 chars!!")


def test_a_keyed_hash_depends_on_value_and_key() -> None:
    hashes = {ONE.keyed_hash("a"), ONE.keyed_hash("b"), OTHER.keyed_hash("a")}
    assert len(hashes) == 3
    assert ONE.keyed_hash("a") == Vault("one secret key of 32 characters!").keyed_hash("a")


def test_what_is_encrypted_is_read_with_the_same_key_only() -> None:
    token = ONE.encrypt("whsec_x")
    assert b"whsec_x" not in token
    assert ONE.decrypt(token) == "whsec_x"
    with pytest.raises(SecretKeyChangedError):
        OTHER.decrypt(token)
