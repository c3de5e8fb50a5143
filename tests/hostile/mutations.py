"""Valid files of every format, changed at random by hypothesis; the same ones in every run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.corpora import HostileFile
from tests.support.bad_images import ACCEPTED

_SEEDS = {odd.name: odd for odd in ACCEPTED}
#: What lengths, sizes and offsets do not expect.
_EXTREMES = [b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0"]


@st.composite
def mutated_files(draw: st.DrawFn) -> HostileFile:
    """A valid file with a few changes; a PNG's checksums are made to fit, or nothing would be read beyond them."""
    name = draw(st.sampled_from(sorted(_SEEDS)))
    data = _SEEDS[name].data
    for _ in range(draw(st.integers(1, 4))):
        change = draw(st.sampled_from(_CHANGES))
        data = change(draw, data)
    if _SEEDS[name].media_type == "image/png" and draw(st.booleans()):
        data = _with_checksums(data)
    return HostileFile("mutated", name, data)


@cache
def examples(count: int) -> tuple[HostileFile, ...]:
    """So many mutated files, the same at every call with the same release of hypothesis."""
    found: list[HostileFile] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated_files())
    def collect(file: HostileFile) -> None:
        found.append(file)

    collect()
    return tuple(HostileFile(file.source, f"{number}: {file.name}", file.data) for number, file in enumerate(found))


def _position(draw: st.DrawFn, data: bytes) -> int:
    """Often in the headers; seldom in the signature, since hardly anything would read on."""
    end = len(data)
    start = min(12, end)
    first, last = draw(st.sampled_from([(start, min(end, 200)), (start, end), (start, end), (0, end)]))
    return draw(st.integers(first, last))


def _flipped(draw: st.DrawFn, data: bytes) -> bytes:
    at = _position(draw, data)
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def _extreme(draw: st.DrawFn, data: bytes) -> bytes:
    at, value = _position(draw, data), draw(st.sampled_from(_EXTREMES))
    return data[:at] + value + data[at + len(value) :]


def _part(draw: st.DrawFn, data: bytes) -> slice:
    """A chunk of a PNG, a segment of a JPEG or any other part."""
    marks = [at for at, _, _ in _chunks(data)] or [at for at in range(len(data)) if data[at] == 0xFF]
    if len(marks) > 2 and draw(st.booleans()):
        first = draw(st.integers(0, len(marks) - 2))
        return slice(marks[first], marks[first + 1])
    start = _position(draw, data)
    return slice(start, start + draw(st.integers(1, 200)))


def _doubled(draw: st.DrawFn, data: bytes) -> bytes:
    part = _part(draw, data)
    return data[: part.start] + data[part] * draw(st.sampled_from([2, 3, 50])) + data[part.stop :]


def _without(draw: st.DrawFn, data: bytes) -> bytes:
    part = _part(draw, data)
    return data[: part.start] + data[part.stop :]


def _moved(draw: st.DrawFn, data: bytes) -> bytes:
    part = _part(draw, data)
    rest = data[: part.start] + data[part.stop :]
    at = _position(draw, rest)
    return rest[:at] + data[part] + rest[at:]


_CHANGES: list[Callable[[st.DrawFn, bytes], bytes]] = [_flipped, _flipped, _extreme, _doubled, _without, _moved]


def _chunks(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, length of the body and end of each chunk of a PNG; nothing for another format."""
    at = 8
    while data.startswith(b"\x89PNG\r\n\x1a\n") and at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            return
        yield at, length, at + 12 + length
        at += 12 + length


def _with_checksums(data: bytes) -> bytes:
    fitted = bytearray(data)
    for at, length, end in _chunks(data):
        fitted[end - 4 : end] = zlib.crc32(data[at + 4 : at + 8 + length]).to_bytes(4, "big")
    return bytes(fitted)
