"""AVIF files with properties that Pillow does not write: they are added to a file of its."""

from __future__ import annotations

import struct
from fractions import Fraction

_CONTAINERS = {b"meta": 12, b"iprp": 8}  # bytes before the first box inside


def with_clean_aperture(file: bytes, box: bytes) -> bytes:
    """The file, with this clap box among its image's properties."""
    changed = bytearray(file)
    _add_property(changed, box)
    return bytes(changed)


def with_colours(file: bytes, primaries: int, transfer: int) -> bytes:
    """The file, with other code points in the colr box that Pillow writes."""
    at = file.index(b"colrnclx") + 8
    return file[:at] + struct.pack(">HH", primaries, transfer) + file[at + 4 :]


def clean_aperture(width: Fraction | int, height: Fraction | int, right: Fraction, down: Fraction) -> bytes:
    """A clap box; the offsets are of its centre from the image's."""
    numbers = [part for each in (width, height, right, down) for part in Fraction(each).as_integer_ratio()]
    return struct.pack(">I4sIIIIiIiI", 40, b"clap", *numbers)


def _find(file: bytes | bytearray, path: tuple[bytes, ...]) -> list[int]:
    """Where each box of a path begins."""
    at, end, found = 0, len(file), []
    for kind in path:
        while file[at + 4 : at + 8] != kind:
            at += int.from_bytes(file[at : at + 4], "big")
            assert at < end, kind
        found.append(at)
        end = at + int.from_bytes(file[at : at + 4], "big")
        at += _CONTAINERS.get(kind, 8)
    return found


def _grow(file: bytearray, boxes: list[int], by: int) -> None:
    for at in boxes:
        struct.pack_into(">I", file, at, int.from_bytes(file[at : at + 4], "big") + by)


def _add_property(file: bytearray, box: bytes) -> None:
    """Append a box to the properties, associate it with the first item, and move the coded data's address."""
    path = _find(file, (b"meta", b"iprp", b"ipco"))
    end = path[-1] + int.from_bytes(file[path[-1] : path[-1] + 4], "big")
    number, at = 0, path[-1] + 8
    while at < end:
        number, at = number + 1, at + int.from_bytes(file[at : at + 4], "big")
    file[end:end] = box
    _grow(file, path, len(box))
    path = _find(file, (b"meta", b"iprp", b"ipma"))
    count = path[-1] + 8 + 4 + 4 + 2  # after the version, the number of entries and the first item's number
    file.insert(count + 1 + file[count], 0x80 | number + 1)  # essential, as a change of what is shown must be
    file[count] += 1
    _grow(file, path, 1)
    at = _find(file, (b"meta", b"iloc"))[-1]
    assert file[at + 8 : at + 12] == b"\0\0\0\0", "the layout that Pillow writes"
    assert file[at + 12 : at + 14] == b"\x44\0"
    (items,) = struct.unpack_from(">H", file, at + 14)
    entry = at + 16
    for _ in range(items):
        (extents,) = struct.unpack_from(">H", file, entry + 4)
        for extent in range(entry + 6, entry + 6 + 8 * extents, 8):
            struct.pack_into(">I", file, extent, int.from_bytes(file[extent : extent + 4], "big") + len(box) + 1)
        entry += 6 + 8 * extents
