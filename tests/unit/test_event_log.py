"""Curves in TensorBoard's format, read back field by field."""

from __future__ import annotations

import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.model.whole_files import DiskFullError
from worker.training.event_log import EventLog, _checksum


def records(path: Path) -> Iterator[bytes]:
    """The events of a file, after a check of both checksums."""
    content = path.read_bytes()
    while content:
        length = struct.unpack("<Q", content[:8])[0]
        event = content[12 : 12 + length]
        assert content[8:12] == _checksum(content[:8])
        assert content[12 + length : 16 + length] == _checksum(event)
        yield event
        content = content[16 + length :]


def test_the_checksum_is_the_masked_crc_32c() -> None:
    crc = 0xE3069283  # of "123456789", the check value of CRC-32C (RFC 3720 names the polynomial)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(b"123456789") == struct.pack("<I", masked)


def test_events_are_framed_and_hold_step_and_scalars(tmp_path: Path) -> None:
    log = EventLog(tmp_path, first_step=3)
    log.write(300, {"loss": 0.5})
    log.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    version, start, scalar = (event[9:] for event in records(path))  # each begins with its time, a double
    assert version == b"\x1a\x0dbrain.Event:2"
    assert start == b"\x10\x03" + b"\x3a\x02\x08\x01"
    value = b"\x0a\x04loss" + b"\x15" + struct.pack("<f", 0.5)
    summary = b"\x0a" + bytes([len(value)]) + value
    assert scalar == b"\x10\xac\x02" + b"\x2a" + bytes([len(summary)]) + summary


def test_a_run_that_goes_on_opens_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        monkeypatch.setattr("worker.training.event_log.time.time_ns", lambda now=number * 10**9: now)
        EventLog(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """The system refuses to let any file grow beyond a limit, as a full disk does."""
    log = EventLog(tmp_path)
    (path,) = tmp_path.iterdir()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, usual[1]))
    try:
        with pytest.raises(DiskFullError, match="run the same command again"):
            log.write(1, {"loss": 0.5})
    finally:
        log.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
