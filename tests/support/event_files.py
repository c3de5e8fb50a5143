"""A reader of TensorBoard's files of events that shares nothing with their writer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

#: x^32 + x^28 + x^27 + … of CRC-32C (RFC 3720), the highest power first.
GENERATOR = 0x11EDC6F41


@dataclass(frozen=True)
class Event:
    """What TensorBoard reads of a record."""

    wall_time: float
    step: int
    version: str | None
    restarts: bool
    scalars: dict[str, float]


def crc_32c(content: bytes) -> int:
    """By the definition: the remainder of a division of polynomials, each byte's lowest bit first."""
    length = 8 * len(content)
    dividend = int("".join(f"{byte:08b}"[::-1] for byte in content), 2) << 32 ^ 0xFFFFFFFF << length
    for place in range(length - 1, -1, -1):
        if dividend >> place + 32 & 1:
            dividend ^= GENERATOR << place
    return int(f"{dividend:032b}"[::-1], 2) ^ 0xFFFFFFFF


def unmasked(stored: bytes) -> int:
    """Undo what TensorFlow's records do to a checksum."""
    rotated = int.from_bytes(stored, "little") - 0xA282EAD8 & 0xFFFFFFFF
    return rotated << 15 & 0xFFFFFFFF | rotated >> 17


def records(content: bytes) -> Iterator[bytes]:
    """The payloads of a file of records, after a check of both checksums."""
    while content:
        length, of_length = content[:8], content[8:12]
        end = 12 + int.from_bytes(length, "little")
        assert crc_32c(length) == unmasked(of_length)
        assert crc_32c(content[12:end]) == unmasked(content[end : end + 4])
        yield content[12:end]
        content = content[end + 4 :]


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: their numbers and values, those of fixed length as bytes."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place, value, shift = place + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while place < len(message):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        size = {1: 8, 5: 4}[kind] if kind != 2 else number()
        assert place + size <= len(message)
        yield key >> 3, message[place : place + size]
        place += size


def read(content: bytes) -> list[Event]:
    """The events of a file, by the numbers that event.proto and summary.proto give their fields."""
    events = []
    for payload in records(content):
        found = dict(fields(payload))
        summary = found.get(5, b"")
        assert isinstance(summary, bytes)
        scalars = {}
        for number, value in fields(summary):
            assert number == 1
            assert isinstance(value, bytes)
            one = dict(fields(value))
            scalars[one[1].decode()] = struct.unpack("<f", one[2])[0]  # type: ignore[union-attr,arg-type]
        version, session = found.get(3), found.get(7)
        assert version is None or isinstance(version, bytes)
        assert session is None or isinstance(session, bytes)
        (wall_time,) = struct.unpack("<d", found[1])  # type: ignore[arg-type]
        restarts = session is not None and dict(fields(session)) == {1: 1}  # SessionLog.START
        step = found.get(2, 0)
        assert isinstance(step, int)
        events.append(Event(wall_time, step, version.decode() if version else None, restarts, scalars))
    return events
