"""The chunks of a PNG file (ISO/IEC 15948): whether they are undamaged, and what they say about its colours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared.errors import ErrorCode, JobError

_SIGNATURE_BYTES = 8
#: Twelve bytes beside the body: its length, its kind, a checksum of kind and body.
_FRAME = 12
#: Bytes that are unpacked at once.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """One chunk: its kind and its body."""

    kind: bytes
    body: memoryview


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to the one that ends the image, or to where the file breaks off.

    Raises:
        JobError: corrupt_image; a chunk that pixels depend on is cut off, or its checksum is not that of its data.
    """
    view, at = memoryview(data), _SIGNATURE_BYTES
    kind = b""
    while kind != b"IEND" and at + _FRAME <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + _FRAME + length
        sound = end <= len(data) and zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if _is_needed(kind) and not sound:
            raise JobError(ErrorCode.CORRUPT_IMAGE)
        yield Chunk(kind, view[at + 8 : end - 4])
        at = end


def _is_needed(kind: bytes) -> bool:
    """Tell whether pixels depend on a chunk: critical ones begin with a capital, animated frames are in fdAT."""
    return kind[:1].isupper() or kind in {b"fcTL", b"fdAT", b"tRNS"}


#: Samples a pixel, by colour type (11.2.2).
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: Where the passes of an interlaced image begin, and their steps: across, down, across, down (8.2).
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def has_all_rows(found: Iterable[Chunk]) -> bool:
    """Unpack the pixels of the default image and check that they have the right number of bytes.

    Pillow accepts fewer rows if the compressed stream ends correctly.
    """
    header, data = b"", []
    for chunk in found:
        if chunk.kind == b"IHDR":
            header = bytes(chunk.body)
        elif chunk.kind == b"IDAT":
            data.append(chunk.body)
    expected, unpacker, count = _row_bytes(header), zlib.decompressobj(), 0
    for body in data:
        piece = unpacker.decompress(body, _PIECE)
        while piece and count < expected:
            count += len(piece)
            piece = unpacker.decompress(unpacker.unconsumed_tail, _PIECE)
    return count >= expected


def _row_bytes(header: bytes) -> int:
    """Return the number of bytes of all uncompressed rows, each with its filter byte."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS[colour]
    total = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return total
