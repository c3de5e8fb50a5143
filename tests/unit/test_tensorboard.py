"""Curves in TensorBoard's format, read by a reader that shares nothing with their writer.

The reader first shows that it reads what TensorBoard wrote.
"""

from __future__ import annotations

import math
import resource
from pathlib import Path

import pytest

from tests.support.event_files import crc_32c, read
from worker.atomic_files import DiskFullError
from worker.training.loop.tensorboard import EventLog

#: Written by torch.utils.tensorboard.SummaryWriter (torch 2.14.1, tensorboard 2.21.0): loss 0.5 at step 300 and val/ap
#: 0.25 at step 301.
OF_TENSORBOARD = bytes.fromhex(
    "4800000000000000fe92489d095eb46e166ac3da411a0d627261696e2e4576656e743a32522e0a2c74656e736f72626f6172642e73756d6d"
    "6172792e7772697465722e6576656e745f66696c655f777269746572bd3f0f921b000000000000001a0d9e1309a2bf6e166ac3da4110ac02"
    "2a0d0a0b0a046c6f7373150000003f6d591a4f1d00000000000000602fdf2309eebf6e166ac3da4110ad022a0f0a0d0a0676616c2f617015"
    "0000803ee9ea4876"
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
    ids=["digits", "zeros", "ones", "up", "down"],
)
def test_the_reader_computes_the_checksums_that_the_standard_lists(content: bytes, expected: int) -> None:
    """RFC 3720, appendix B.4."""
    assert crc_32c(content) == expected


def test_the_reader_reads_what_tensorboard_wrote() -> None:
    version, first, second = read(OF_TENSORBOARD)
    assert (version.version, version.scalars) == ("brain.Event:2", {})
    assert (first.step, first.scalars, first.version) == (300, {"loss": 0.5}, None)
    assert (second.step, second.scalars) == (301, {"val/ap": 0.25})
    assert 0 < second.wall_time - first.wall_time < 1


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    log = EventLog(tmp_path, first_step=3)
    log.write(300, {"loss": 0.5, "val/ap": 0.25})
    log.write(127, {"Verlust über alles " * 20: -1e-7})
    log.write(2**40, {"loss": math.inf})
    log.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    events = read(path.read_bytes())
    assert [event.version for event in events] == ["brain.Event:2", None, None, None, None]
    assert [event.restarts for event in events] == [False, True, False, False, False]
    assert [event.step for event in events] == [0, 3, 300, 127, 2**40]
    assert [event.scalars for event in events] == [
        {},
        {},
        {"loss": 0.5, "val/ap": 0.25},
        {"Verlust über alles " * 20: pytest.approx(-1e-7)},
        {"loss": math.inf},
    ]
    times = [event.wall_time for event in events]
    assert times == sorted(times)
    assert abs(times[0] - path.stat().st_mtime) < 60


def test_a_run_that_goes_on_opens_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        monkeypatch.setattr("worker.training.loop.tensorboard.time.time_ns", lambda now=number * 10**9: now)
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
