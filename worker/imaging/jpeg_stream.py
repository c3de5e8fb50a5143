"""Whether all of a JPEG's pixels are in its file, undamaged.

libjpeg fills missing pixels with grey and continues to decode after damage. It only warns, and Pillow drops its
warnings. So the entropy-coded data is decoded a second time, at an eighth of the size, by a libjpeg whose warnings are
errors. Signs of damage are an invalid code, a scan that uses more or fewer bytes than it has, blocks darker than black
or brighter than white (a DC coefficient is stored as the difference to the previous one, so damage shifts all later
ones), and a run of zeros that no encoder writes. Damage without any of these signs is not detected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from shared.errors import ErrorCode, JobError

START, END = b"\xff\xd8", b"\xff\xd9"

_SOI, _EOI, _SOS, _DQT, _DHT, _TEM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0x01
#: Application data and comments: nothing that the pixels depend on, and what a decoder may warn about for no reason.
_ASIDE = frozenset({*range(0xE0, 0xF0), 0xFE})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
#: Baseline and extended sequential, Huffman-coded: a scan holds its pixels whole, from the top down.
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_PROGRESSIVE = 0xC2
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # also right after entropy-coded data

#: The names given to a stream's components so that libjpeg converts no colours: RGB, or one that it does not convert.
_PLAIN_IDS = {1: b"Y", 3: b"RGB", 4: b"CMYK"}
_COLOUR_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}

#: How the messages of libjpeg and of TurboJPEG, which is around it, begin.
_TOO_SHORT = "Corrupt JPEG data: premature end"
_NOT_CHECKED = "tjDecompressHeader3(): Could not determine subsampling"

#: The largest share of pixels that may be missing at the end of an image; with more, the image is refused.
MAX_MISSING = 0.01
#: Some cameras leave this many bytes of entropy-coded data after the last pixel. Damage may leave as few.
_MAX_LEFT_OVER = 2
#: The largest magnitude of a DC coefficient: 8 times the distance of a sample from the middle of its range.
_MAX_DC = 1024
#: A run of this many zero bytes is no coincidence: it is longer than any block.
_ZERO_RUN = bytes(64)
#: The symbols that say that nothing follows in a block, or in up to 2^14 blocks (G.1.2.2).
_ENDS_OF_BLOCKS = frozenset(range(0, 0xF0, 0x10))
#: Appended to data that ends too early, it gives the missing pixels other values than libjpeg's grey.
_FILLER = bytes(range(16, 240)) * 512


class Completeness(Enum):
    """How many of a JPEG's pixels are in its file."""

    WHOLE = auto()
    NO_END = auto()
    """All pixels; only the end marker is missing."""
    NEARLY = auto()
    """The file breaks off; at most the share `MAX_MISSING` of the pixels is missing."""
    LEFT_OVER = auto()
    """All pixels, but the data is a byte or two longer than they need: damage may have changed the image."""
    NOT_CHECKED = auto()
    """Unknown: the components are sampled in a way that the checking decoder does not read."""
    DAMAGED = auto()
    """More pixels are missing, or the pixels cannot be trusted."""


@dataclass
class JpegStream:
    """The first image of a JPEG file, as its markers lay it out (ITU T.81, B.1)."""

    frame: int | None = None
    """The marker of its frame header, which names the coding process."""
    components: int = 0
    scans: int = 0
    end: int = 0
    """The position in the file at which its entropy-coded data ends."""
    ended: bool = False
    """Whether the end marker follows at that position."""
    body: bytes = b""
    """What libjpeg decodes without an end marker to plain coefficients: no application data, no comments, quantisation
    tables of ones, and components whose colours it does not convert."""
    dc_steps: tuple[int, ...] = ()
    """The quantisation steps of the components' DC coefficients."""
    all_bits: bool = True
    """Whether its scans contain all bits of all coefficients: a progressive image may end before."""
    zero_filled: bool = False
    """Whether a scan has a run of zeros that no encoder writes: it would mean large differences, not a flat area."""


@dataclass
class _Walk:
    """What the segments read so far say about the stream."""

    steps: dict[int, int] = field(default_factory=dict)  # by quantisation table
    tables: list[int] = field(default_factory=list)  # by component
    plain_ids: dict[int, int] = field(default_factory=dict)
    missing: dict[int, NDArray[np.uint8]] = field(default_factory=dict)  # bits, by component and coefficient
    zero_codes: dict[int, int] = field(default_factory=dict)  # what the code of zeros means, by Huffman table
    zeros_are_flat: bool = True  # in the scan that has begun


def read_stream(data: bytes) -> JpegStream:
    """Read the markers of a JPEG up to the end of its first image, without decoding it.

    Raises:
        JobError: corrupt_image; it has no frame, or a segment is shorter than what it must hold.
            unsupported_media_type; its coding process or number of components is none that is decoded here.
    """
    stream, walk, parts, at = JpegStream(end=len(data)), _Walk(), [START], len(START)
    while found := _MARKER.search(data, at):
        if stream.scans:  # before the first one it is junk, which decoders pass over
            parts.append(data[at : found.start()])
            stream.zero_filled |= _is_zero_filled(parts[-1], walk)
        at, marker = found.end(), data[found.end() - 1]
        if marker == _EOI:
            stream.end, stream.ended = found.start(), True
            break
        if marker in {_SOI, _TEM}:  # they have no length
            parts.append(data[found.start() : at])
            continue
        segment = bytearray(data[at : at + int.from_bytes(data[at : at + 2], "big")])
        at += len(segment)
        if marker not in _ASIDE:
            _read_segment(marker, segment, stream, walk)
            parts.append(data[found.start() : found.end()] + segment)
    else:
        parts.append(data[at:])
        stream.zero_filled |= _is_zero_filled(parts[-1], walk)
    if stream.frame is None:
        raise JobError(ErrorCode.CORRUPT_IMAGE)
    stream.body = b"".join(parts)
    stream.all_bits = not any(missing.any() for missing in walk.missing.values())
    stream.dc_steps = tuple(walk.steps.get(table, 1) for table in walk.tables)
    return stream


def completeness(stream: JpegStream) -> Completeness:
    """Find out whether all pixels of a JPEG are there."""
    if stream.zero_filled or not stream.all_bits:
        return Completeness.DAMAGED
    body, complaint = stream.body, None
    for body in _with_less_padding(stream.body):
        complaint = _complaint(stream, body)
        if complaint is None and _needs_all(stream, body):
            return Completeness.WHOLE if stream.ended else Completeness.NO_END
    if complaint is None:
        few = _complaint(stream, body[: -1 - _MAX_LEFT_OVER]) is not None
        return Completeness.LEFT_OVER if few else Completeness.DAMAGED
    if complaint.startswith(_NOT_CHECKED):
        return Completeness.NOT_CHECKED
    breaks_off = complaint.startswith(_TOO_SHORT) and not stream.ended and stream.scans == 1
    return Completeness.NEARLY if breaks_off and _missing_share(stream, body) <= MAX_MISSING else Completeness.DAMAGED


def with_end(data: bytes, stream: JpegStream) -> bytes:
    """Return a file that ends as its format demands: Pillow refuses one that has no end marker."""
    if stream.ended:
        return data
    bare = data.rstrip(b"\x00\xff")
    return bare + data[len(bare) : len(bare) + 2] + END


def _read_segment(marker: int, segment: bytearray, stream: JpegStream, walk: _Walk) -> None:
    """Record what a segment says, and change it in place so that it decodes to plain coefficients.

    `segment` begins with its length.
    """
    try:
        if marker == _DQT:
            _read_quantisation(segment, walk)
        elif marker == _DHT:
            _read_huffman(segment, walk)
        elif marker in _FRAMES:
            _read_frame(marker, segment, stream, walk)
        elif marker == _SOS:
            stream.scans += 1
            _read_scan(segment, stream.frame, walk)
    except (IndexError, KeyError) as error:
        raise JobError(ErrorCode.CORRUPT_IMAGE) from error


def _read_quantisation(segment: bytearray, walk: _Walk) -> None:
    """Record the steps of DC coefficients, and set all steps to 1: decoding then gives plain coefficients (B.2.4.1)."""
    at = 2
    while at < len(segment):
        width = 1 + (segment[at] >> 4)
        walk.steps[segment[at] & 15] = int.from_bytes(segment[at + 1 : at + 1 + width], "big")
        segment[at + 1 : at + 1 + 64 * width] = (b"\0" * (width - 1) + b"\1") * 64
        at += 1 + 64 * width


def _read_huffman(segment: bytearray, walk: _Walk) -> None:
    """Record the meaning of a code of zeros in each table, its first symbol (B.2.4.2)."""
    at = 2
    while at < len(segment):
        walk.zero_codes[segment[at]] = segment[at + 17]
        at += 17 + sum(segment[at + 1 : at + 17])


def _read_scan(segment: bytearray, frame: int | None, walk: _Walk) -> None:
    """Rename the components, and record whether zeros can stand for blocks without differences (B.2.3)."""
    ends = range(3, 3 + 2 * segment[2], 2)
    first, last, refined, shift = *segment[ends.stop : ends.stop + 2], *divmod(segment[ends.stop + 2], 16)
    walk.zeros_are_flat = True
    for at in ends:
        segment[at] = walk.plain_ids[segment[at]]
        if frame == _PROGRESSIVE:
            walk.missing[segment[at]][first : last + 1] = shift
        dc, ac = segment[at + 1] >> 4, 0x10 | segment[at + 1] & 15
        if first == 0 and not refined:
            walk.zeros_are_flat &= walk.zero_codes.get(dc) == 0
        if first > 0 or frame in _SEQUENTIAL:
            walk.zeros_are_flat &= walk.zero_codes.get(ac, 0xFF) in _ENDS_OF_BLOCKS


def _is_zero_filled(scan: bytes, walk: _Walk) -> bool:
    """Tell whether zeros lie within a scan that cannot have them. At its end they are padding."""
    return not walk.zeros_are_flat and _ZERO_RUN in scan.rstrip(b"\0")


def _read_frame(marker: int, segment: bytearray, stream: JpegStream, walk: _Walk) -> None:
    """Record the coding process and the components, and rename the components (B.2.2)."""
    if stream.frame is not None:
        return  # libjpeg refuses a second one
    precision, components = segment[2], segment[7]
    if marker not in {*_SEQUENTIAL, _PROGRESSIVE} or precision != 8 or components not in _PLAIN_IDS:
        raise JobError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"JPEGs of this form are not read: process {marker - 0xC0}, {precision} bits a sample, {components} "
            "components. Convert it to a baseline JPEG or a PNG.",
        )
    stream.frame, stream.components = marker, components
    for plain, at in zip(_PLAIN_IDS[components], range(8, 8 + 3 * components, 3), strict=True):
        walk.plain_ids[segment[at]] = plain
        walk.tables.append(segment[at + 2])
        if marker == _PROGRESSIVE:
            walk.missing[plain] = np.full(64, 0xFF, np.uint8)
        segment[at] = plain


def _with_less_padding(body: bytes) -> Iterator[bytes]:
    """Yield the data as it is, then without the zeros or fill bytes that programs and disks leave at its end."""
    yield body
    bare = body.rstrip(b"\x00\xff")
    padding = len(body) - len(bare)
    if padding:
        # Zeros of the data itself are rare, but valid; and its own byte 0xFF is written as FF 00.
        for kept in range(min(padding - 1, 3), -1, -1):
            yield body[: len(bare) + kept]


def _needs_all(stream: JpegStream, body: bytes) -> bool:
    """Tell whether the pixels need even the last byte: without it, a sequential image lacks some bits.

    A few bytes too many cause no warning, since libjpeg reads up to eight bytes ahead.
    """
    return stream.frame not in _SEQUENTIAL or _complaint(stream, _shortened(body)) is not None


def _shortened(body: bytes) -> bytes:
    return body[:-2] if body.endswith(b"\xff\x00") else body[:-1]


def _complaint(stream: JpegStream, body: bytes) -> str | None:
    """Return the first fault of the data: a warning of libjpeg, or values that no pixels have."""
    try:
        dc = _decoded(stream, body + END, min_height=1, min_width=1)  # an eighth: means of blocks, so DC coefficients
    except ValueError as error:
        return str(error)
    steps = np.array(stream.dc_steps)
    too_large = np.abs(dc.astype(np.int32) - 128) * 8 * steps > _MAX_DC + 8 * steps
    return "A DC coefficient is out of range" if too_large.any() else None


def _missing_share(stream: JpegStream, body: bytes) -> float:
    """Return the share of the pixels after the end of the data: those that depend on the bytes appended to it."""
    try:
        filled, other = (_decoded(stream, body + tail + END, strict=False) for tail in (b"", _FILLER))
    except ValueError:
        return 1.0
    height, width = filled.shape[:2]
    rows, columns = np.nonzero((filled != other).any(axis=2))
    if not rows.size:
        return 0.0  # not even a block
    # Blocks are stored from left to right, in rows of at most 32 pixels.
    top = int(rows[0])
    left = int(columns[rows < top + 32].min())
    missing = (height - top) * width - min(32, height - top) * left
    return float(missing / (height * width))


def _decoded(stream: JpegStream, data: bytes, **options: int) -> NDArray[np.uint8]:
    """Return (H, W, components), of plain coefficients: samples that differ from 128 by an eighth of them."""
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace=_COLOUR_SPACES[stream.components], **options)
    return pixels
