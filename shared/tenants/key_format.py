"""What an API key looks like: a prefix that scanners of source code know, random characters, and a checksum of them.

By the checksum whoever finds such a text knows, without asking the service, that it is a key and not something alike.
Keys from before there was a checksum have 43 characters of another alphabet after the prefix; they stay valid.
"""

from __future__ import annotations

import secrets
import string
import zlib

PREFIX = "dd_"
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
#: 256 random bits.
_RANDOM_CHARACTERS = 43
#: As many as 32 bits need.
_CHECK_CHARACTERS = 6
#: So many characters of a key tell it from others, and are shown in lists.
_SHOWN_CHARACTERS = len(PREFIX) + 6
_LENGTH = len(PREFIX) + _RANDOM_CHARACTERS + _CHECK_CHARACTERS


def make_key() -> str:
    """Return a new key: `dd_`, 43 random characters of base 62, and the 6 of their checksum."""
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    return body + _checksum(body)


def could_be_key(text: str) -> bool:
    """Return whether a text can be a key: its checksum is right, or it has the form of the keys without one."""
    if not text.startswith(PREFIX):
        return False
    return len(text) != _LENGTH or text[-_CHECK_CHARACTERS:] == _checksum(text[:-_CHECK_CHARACTERS])


def shown_prefix(key: str) -> str:
    """Return the beginning of a key, by which its owner knows it among others."""
    return key[:_SHOWN_CHARACTERS]


def _checksum(body: str) -> str:
    """Return the CRC-32 (ISO 3309) of a key's beginning in base 62, the most significant digit first."""
    value, digits = zlib.crc32(body.encode(errors="replace")), ""
    for _ in range(_CHECK_CHARACTERS):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
