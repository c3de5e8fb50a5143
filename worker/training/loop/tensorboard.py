"""Curves of a training for TensorBoard, in its own file format.

We write the format ourselves because the package `tensorboard` would add a web server and thirty megabytes to every
worker. A record is a length, its checksum, an `Event` message of protocol buffers, and its checksum. To view the
curves, install TensorBoard and give it the folder.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from worker.atomic_files import full_disk_told

_VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_START = 1  # SessionLog.START: discards what an earlier run logged for this and later steps


class EventLog:
    """A file of scalars in `folder`. A run that continues opens another; from `first_step` on, it replaces the old.

    Raises:
        DiskFullError: the disk is too full for a record.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1_000_000:013d}.{os.getpid()}"
        self._path = folder / name
        self._file = self._path.open("ab", buffering=0)
        self._append(_bytes(3, _VERSION))
        self._append(_integer(2, first_step) + _bytes(7, _integer(1, _START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of one step, by curve."""
        scalars = (_bytes(1, name.encode()) + _float(2, value) for name, value in values.items())
        summary = b"".join(_bytes(1, scalar) for scalar in scalars)
        self._append(_integer(2, step) + _bytes(5, summary))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, fields: bytes) -> None:
        event = _double(1, time.time()) + fields
        length = struct.pack("<Q", len(event))
        with full_disk_told(self._path):
            self._file.write(length + _checksum(length) + event + _checksum(event))


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _integer(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _key(field, 5) + struct.pack("<f", value)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)  # noqa: PLW2901  # that is how it is computed
        table.append(value)
    return table


_TABLE = _crc_table()


def _checksum(content: bytes) -> bytes:
    """CRC-32C, rotated and offset as TensorFlow's records have it ("masked")."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
