"""The properties of an AVIF file's image, and the position of its coded data (ISO/IEC 14496-12, 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

#: (left, top, right, bottom), in pixels.
Box = tuple[int, int, int, int]

_FULL_BOX = 4  # version and flags, before the contents of some boxes
_CODED = {b"av01"}


@dataclass(frozen=True)
class AvifImage:
    """The primary item of an AVIF file."""

    clean_aperture: Box | None
    """The part of the coded image that viewers show, before it is turned upright; None for all of it."""
    colours: tuple[int, int] | None
    """The code points of primaries and transfer function (ITU-T H.273); None if the file does not state them."""
    depth: int
    """Bits a sample."""
    zero_filled: bool
    """Whether a run of zeros lies in the coded data, which no encoder writes."""


def read_avif(data: bytes, size: tuple[int, int], zero_run: bytes) -> AvifImage:
    """Read the properties of the image whose pixels are decoded.

    Args:
        data: the file.
        size: width and height of the coded image.
        zero_run: as many zeros as do not occur in coded data.

    Raises:
        struct.error, IndexError, KeyError, ValueError: the file is not as the standard has it.
    """
    view = memoryview(data)
    meta = dict(_boxes(dict(_boxes(view)).get(b"meta", view[:0])[_FULL_BOX:]))
    if b"pitm" not in meta or b"iprp" not in meta:  # an image sequence alone
        return AvifImage(None, None, 8, zero_filled=zero_run in data)
    primary = _primary(meta[b"pitm"])
    properties = list(_properties(meta[b"iprp"], primary))
    colours = [_code_points(body) for kind, body in properties if kind == b"colr" and bytes(body[:4]) == b"nclx"]
    depths = [body[_FULL_BOX + 1] for kind, body in properties if kind == b"pixi" and body[_FULL_BOX]]
    apertures = [_aperture(body, size) for kind, body in properties if kind == b"clap"]
    return AvifImage(
        clean_aperture=apertures[0] if apertures else None,
        colours=colours[0] if colours else None,
        depth=depths[0] if depths else 8,
        zero_filled=any(zero_run in extent for extent in _coded_extents(data, meta)),
    )


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the boxes that lie in `view`, each as its kind and contents."""
    at = 0
    while at + 8 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        start = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", view, start)
            start += 8
        end = at + length if length else len(view)
        if end < start:
            raise ValueError("a box is shorter than its header")
        yield kind, view[start:end]
        at = end


def _primary(pitm: memoryview) -> int:
    number: int = struct.unpack_from(">I" if pitm[0] else ">H", pitm, _FULL_BOX)[0]
    return number


def _properties(iprp: memoryview, item: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the properties of an item, in the order in which they apply."""
    boxes = list(_boxes(iprp))
    known = list(_boxes(dict(boxes)[b"ipco"]))
    for kind, body in boxes:
        if kind == b"ipma":
            yield from (known[index - 1] for index in _associated(body, item) if index)


def _associated(ipma: memoryview, item: int) -> Iterator[int]:
    """Yield the numbers of an item's properties, from 1 (ISO/IEC 23008-12, 9.3.2)."""
    wide = ipma[3] & 1
    (entries,) = struct.unpack_from(">I", ipma, _FULL_BOX)
    at = _FULL_BOX + 4
    for _ in range(entries):
        number, count = struct.unpack_from(">IB" if ipma[0] else ">HB", ipma, at)
        at += 5 if ipma[0] else 3
        numbers = struct.unpack_from(f">{count}{'H' if wide else 'B'}", ipma, at)
        at += count * (2 if wide else 1)
        if number == item:
            yield from (each & (0x7FFF if wide else 0x7F) for each in numbers)


def _code_points(colr: memoryview) -> tuple[int, int]:
    primaries, transfer = struct.unpack_from(">HH", colr, 4)
    return primaries, transfer


def _aperture(clap: memoryview, size: tuple[int, int]) -> Box | None:
    """Return the clean aperture; None if it is not made of whole pixels: viewers then ignore it."""
    numbers = struct.unpack_from(">IIIIiIiI", clap)
    if not all(numbers[1::2]):
        return None
    width, height, right, down = (Fraction(n, d) for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    # The offsets are of the aperture's centre from the image's (ISO/IEC 14496-12, 12.1.4).
    left, top = (size[0] - width) / 2 + right, (size[1] - height) / 2 + down
    box = left, top, left + width, top + height
    whole = all(edge.denominator == 1 for edge in box)
    inside = 0 <= left < box[2] <= size[0] and 0 <= top < box[3] <= size[1]
    return (int(box[0]), int(box[1]), int(box[2]), int(box[3])) if whole and inside else None


def _coded_extents(data: bytes, meta: dict[bytes, memoryview]) -> Iterator[bytes]:
    """Yield the pieces of the file that hold AV1 data."""
    coded = set(_coded_items(meta[b"iinf"])) if b"iinf" in meta else set()
    for item, start, length in _locations(meta[b"iloc"]) if b"iloc" in meta else ():
        if item in coded:
            yield data[start : start + length] if length else data[start:]


def _coded_items(iinf: memoryview) -> Iterator[int]:
    """Yield the numbers of the items whose type is AV1's."""
    start = _FULL_BOX + (4 if iinf[0] else 2)
    for kind, infe in _boxes(iinf[start:]):
        if kind == b"infe" and infe[0] >= 2:
            number, _, item_type = struct.unpack_from(">IH4s" if infe[0] > 2 else ">HH4s", infe, _FULL_BOX)
            if item_type in _CODED:
                yield number


def _locations(iloc: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield (item, start, length) of the extents that lie in the file itself (ISO/IEC 14496-12, 8.11.3)."""
    version = iloc[0]
    offset_size, length_size = iloc[4] >> 4, iloc[4] & 15
    base_size, index_size = iloc[5] >> 4, (iloc[5] & 15) if version else 0
    at = 6
    count, at = _number(iloc, at, 4 if version > 1 else 2)
    for _ in range(count):
        item, at = _number(iloc, at, 4 if version > 1 else 2)
        method, at = _number(iloc, at, 2) if version else (0, at)
        _, at = _number(iloc, at, 2)  # which file: this one
        base, at = _number(iloc, at, base_size)
        extents, at = _number(iloc, at, 2)
        for _ in range(extents):
            at += index_size
            offset, at = _number(iloc, at, offset_size)
            length, at = _number(iloc, at, length_size)
            if method & 15 == 0:
                yield item, base + offset, length


def _number(view: memoryview, at: int, size: int) -> tuple[int, int]:
    """Return the number of `size` bytes at `at`, and where the next one is."""
    if at + size > len(view):
        raise IndexError("a box ends within a number")
    return int.from_bytes(view[at : at + size], "big"), at + size
