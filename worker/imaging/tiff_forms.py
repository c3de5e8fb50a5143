"""The forms of TIFF that are decoded faithfully, and whether a TIFF's compressed strips are undamaged.

TIFF allows far more than its readers implement. Pillow reads wrong values from some forms (uncompressed 16-bit planes,
inverted 16-bit grey, signed samples) without an error. So a form is accepted only if its pixels were compared with
another decoder's (tests/unit/test_tiff_forms.py). For any other form, the error names what is not supported.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from shared.errors import ErrorCode, JobError
from worker.imaging.jpeg_stream import START, Completeness, completeness, read_stream


class _Tag(IntEnum):
    """The tags that say how samples are stored (TIFF 6.0)."""

    WIDTH = 256
    HEIGHT = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    PLANAR = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347


#: Each: its name, the bits a sample and the samples a pixel that are read.
_PHOTOMETRICS = {
    0: ("white is zero", {1, 2, 4, 8}, {1}),
    1: ("black is zero", {1, 2, 4, 8, 16}, {1, 2}),
    2: ("RGB", {8, 16}, {3, 4, 5}),
    3: ("palette", {1, 2, 4, 8}, {1}),
    5: ("CMYK", {8, 16}, {4}),
    6: ("YCbCr", {8}, {3}),
    8: ("CIELab", {8}, {3}),
}
_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _JPEG = 1, 5, 8, 32946, 32773, 7
_COMPRESSIONS = {_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _JPEG}
_ASSOCIATED_ALPHA = 1
#: Bytes that are unpacked at once when a strip's checksum is compared.
_PIECE = 1 << 20


@dataclass(frozen=True)
class TiffForm:
    """How the first image of a TIFF file is stored."""

    photometric: int | None
    bits: frozenset[int]
    samples: int
    formats: frozenset[int]
    planar: bool
    compression: int
    predictor: int
    fill_order: int
    ink_set: int
    extra: tuple[int, ...]


def check_form(data: bytes) -> None:
    """Refuse a TIFF whose pixels would be decoded to wrong values.

    Raises:
        JobError: unsupported_media_type; its samples are stored in a form that is not read.
    """
    if data.startswith(b"MM\0+"):
        raise _unread("a big-endian BigTIFF")
    if unread := _why_unread(_form(_first_directory(data))):
        raise _unread(unread)


def check_strips(data: bytes) -> None:
    """Refuse a TIFF, of an accepted form, whose strips or tiles are not complete.

    Raises:
        JobError: corrupt_image; one is not listed, lies beyond the file's end, or is damaged.
    """
    directory = _first_directory(data)
    form = _form(directory)
    listed = _numbers(directory.get(_Tag.STRIP_OFFSETS, directory.get(_Tag.TILE_OFFSETS, ())))
    if len(listed) != _count(directory, form):
        raise JobError(ErrorCode.CORRUPT_IMAGE)
    if form.compression in {_DEFLATE, _OLD_DEFLATE}:
        for strip in _strips(data, directory):
            _check_deflated(strip)
    if form.compression == _JPEG:
        tables = directory.get(_Tag.JPEG_TABLES, b"")
        for strip in _strips(data, directory):
            _check_jpeg(strip, tables)


def _unread(what: str) -> JobError:
    return JobError(
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        f"TIFFs of this form are not read: {what}. Convert it to a PNG, or to a TIFF of 8 bits a sample.",
    )


def _first_directory(data: bytes) -> ImageFileDirectory_v2:
    header = data[: 16 if data[2] == 43 else 8]
    directory = ImageFileDirectory_v2(header)
    file = io.BytesIO(data)
    file.seek(directory.next)
    directory.load(file)
    return directory


def _form(directory: ImageFileDirectory_v2) -> TiffForm:
    """Return the form. Tags that the file lacks have the defaults of the standard."""

    def number(tag: _Tag, default: int) -> int:
        return int(_numbers(directory.get(tag, default))[0])

    photometric = directory.get(_Tag.PHOTOMETRIC)
    return TiffForm(
        photometric=None if photometric is None else int(_numbers(photometric)[0]),
        bits=frozenset(_numbers(directory.get(_Tag.BITS_PER_SAMPLE, 1))),
        samples=number(_Tag.SAMPLES_PER_PIXEL, 1),
        formats=frozenset(_numbers(directory.get(_Tag.SAMPLE_FORMAT, 1))),
        planar=number(_Tag.PLANAR, 1) == 2,
        compression=number(_Tag.COMPRESSION, _NONE),
        predictor=number(_Tag.PREDICTOR, 1),
        fill_order=number(_Tag.FILL_ORDER, 1),
        ink_set=number(_Tag.INK_SET, 1),
        extra=tuple(_numbers(directory.get(_Tag.EXTRA_SAMPLES, ()))),
    )


def _numbers(value: Any) -> Sequence[int]:
    return value if isinstance(value, tuple) else (value,)


def _why_unread(form: TiffForm) -> str | None:
    """Return the property of a form that is not supported; None if all are."""
    if form.photometric is None:
        return "no photometric interpretation"
    if form.photometric not in _PHOTOMETRICS:
        return f"the photometric interpretation {form.photometric}"
    name, bits, samples = _PHOTOMETRICS[form.photometric]
    if len(form.bits) != 1 or not form.bits <= bits:
        return f"{name} with {' and '.join(map(str, sorted(form.bits)))} bits a sample"
    if form.samples not in samples:
        return f"{name} with {form.samples} samples a pixel"
    grey_with_alpha = form.photometric == 1 and form.samples == 2
    jpeg = form.compression == _JPEG
    unread = {
        "samples that are not unsigned whole numbers": form.formats != {1},
        f"the compression {form.compression}": form.compression not in _COMPRESSIONS,
        f"the predictor {form.predictor}": form.predictor not in {1, 2},
        "bits in reverse order": form.fill_order != 1,
        "inks other than CMYK": form.photometric == 5 and form.ink_set != 1,
        "uncompressed planes of 16 bits": form.planar and form.bits == {16} and form.compression == _NONE,
        "YCbCr that is not JPEG-compressed": form.photometric == 6 and not jpeg,
        f"JPEG compression of {name}": jpeg and (form.photometric not in {1, 2, 6} or form.bits != {8} or form.planar),
        "grey with transparency that is not 8-bit, interleaved and unassociated": grey_with_alpha
        and (form.bits != {8} or form.planar or form.extra == (_ASSOCIATED_ALPHA,)),
    }
    return next((what for what, applies in unread.items() if applies), None)


def _count(directory: ImageFileDirectory_v2, form: TiffForm) -> int:
    """Return how many strips or tiles the image has. Pillow leaves unlisted ones black."""
    width, height = int(directory[_Tag.WIDTH]), int(directory[_Tag.HEIGHT])
    across, down = 1, -(-height // min(int(directory.get(_Tag.ROWS_PER_STRIP, height)), height))
    if _Tag.TILE_OFFSETS in directory:
        across, down = -(-width // int(directory[_Tag.TILE_WIDTH])), -(-height // int(directory[_Tag.TILE_HEIGHT]))
    return across * down * (form.samples if form.planar else 1)


def _strips(data: bytes, directory: ImageFileDirectory_v2) -> Iterator[bytes]:
    """Yield the compressed strips, or tiles.

    Raises:
        JobError: corrupt_image; one of them lies beyond the file's end.
    """
    offsets = directory.get(_Tag.STRIP_OFFSETS, directory.get(_Tag.TILE_OFFSETS, ()))
    lengths = directory.get(_Tag.STRIP_BYTE_COUNTS, directory.get(_Tag.TILE_BYTE_COUNTS, ()))
    for offset, length in zip(_numbers(offsets), _numbers(lengths), strict=True):
        if offset + length > len(data):
            raise JobError(ErrorCode.CORRUPT_IMAGE)
        yield data[offset : offset + length]


def _check_deflated(strip: bytes) -> None:
    """Unpack a strip to its end, where its checksum is. libtiff stops at the last row, so it may return wrong rows."""
    unpacker = zlib.decompressobj()
    rest = strip
    while rest and not unpacker.eof:
        unpacker.decompress(rest, _PIECE)  # raises zlib.error, also where the checksum is wrong
        rest = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise JobError(ErrorCode.CORRUPT_IMAGE)


def _check_jpeg(strip: bytes, tables: bytes) -> None:
    stream = read_stream(START + tables.removeprefix(START).removesuffix(b"\xff\xd9") + strip.removeprefix(START))
    if completeness(stream) is not Completeness.WHOLE:
        raise JobError(ErrorCode.CORRUPT_IMAGE)
