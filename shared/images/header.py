"""Checks of an image file's header, before anything decodes the file.

The API runs them on the upload, and the decoder runs them again. They only read bytes; nothing here decompresses.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import imagesize

from shared.errors import ErrorCode, JobError

#: The number of first bytes of a file that `sniff`, and mostly `check_header`, need.
HEAD_BYTES = 65_536

_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

#: A file above the pixel limit with fewer than one byte for this many pixels is taken for a decompression bomb.
_BOMB_PIXELS_PER_BYTE = 1000


@dataclass(frozen=True)
class ImageLimits:
    """The largest image that is accepted."""

    max_bytes: int = 20_000_000
    max_pixels: int = 40_000_000
    max_aspect_ratio: int = 32


def sniff(head: bytes) -> str | None:
    """Return the media type of the file that begins with `head`; None if it is no accepted image type.

    Only the content counts. A file that begins like an image of a type has that type, even if it is also valid as
    something else.
    """
    for media_type, begins in _SIGNATURES.items():
        if begins(head):
            return media_type
    return None


def check_header(head: bytes, byte_count: int, limits: ImageLimits, whole: IO[bytes] | None = None) -> str:
    """Check a file of `byte_count` bytes that begins with `head`, and return its media type.

    `whole`: the file itself, to read the image's size from beyond the head, where many programs write the size of a
    TIFF. Its position is changed. None: only the head is read.

    Raises JobError: unsupported_media_type, image_too_large, decompression_bomb or corrupt_image. If the size is not
    found, the image is not refused for it: the decoder checks the size again.
    """
    if byte_count > limits.max_bytes:
        raise JobError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"The file has {byte_count:,} bytes; {limits.max_bytes:,} are accepted. Scale it down.",
        )
    if not head:
        raise JobError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The file is empty. Upload an image.")
    media_type = sniff(head)
    if media_type is None:
        raise JobError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    size = claimed_size(head, whole)
    if size is not None:
        check_size(*size, byte_count, limits)
    return media_type


def check_size(width: int, height: int, byte_count: int, limits: ImageLimits) -> None:
    """Refuse an image of width × height pixels, in a file of `byte_count` bytes, that exceeds the limits.

    Raises JobError: corrupt_image if it has no pixels; decompression_bomb if it has too many pixels, and the file has
    less than one byte for 1,000 of them; image_too_large if it has too many pixels otherwise, or too long a side.
    """
    if width <= 0 or height <= 0:
        raise JobError(
            ErrorCode.CORRUPT_IMAGE, "The image says that it has no pixels. Upload it again from its source."
        )
    pixels = width * height
    if pixels > limits.max_pixels:
        bomb = pixels > byte_count * _BOMB_PIXELS_PER_BYTE
        raise JobError(
            ErrorCode.DECOMPRESSION_BOMB if bomb else ErrorCode.IMAGE_TOO_LARGE,
            f"The image says that it has {width:,} × {height:,} pixels, in {byte_count:,} bytes; "
            f"{limits.max_pixels:,} pixels are accepted. Scale it down.",
        )
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise JobError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"The image has {width:,} × {height:,} pixels; "
            f"a side may be {limits.max_aspect_ratio} times the other. Crop it.",
        )


def claimed_size(head: bytes, whole: IO[bytes] | None = None) -> tuple[int, int] | None:
    """Return (width, height) from the file's header; None if neither `head` nor `whole`, if given, contains it."""
    media_type = sniff(head)
    if media_type is None:
        return None
    if media_type in _SIZED_BY_LIBRARY:
        return _size_by_library(whole or io.BytesIO(head))
    try:
        return _SIZES[media_type](head)
    except (struct.error, IndexError):  # the head ends before the size does
        return None


def _is_jpeg(head: bytes) -> bool:
    return head.startswith(b"\xff\xd8\xff")


def _is_png(head: bytes) -> bool:
    return head.startswith(b"\x89PNG\r\n\x1a\n")


def _is_gif(head: bytes) -> bool:
    return head.startswith((b"GIF87a", b"GIF89a"))


def _is_webp(head: bytes) -> bool:
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def _is_bmp(head: bytes) -> bool:
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES


def _is_tiff(head: bytes) -> bool:
    return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def _is_avif(head: bytes) -> bool:
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[start : start + 4] for start in (8, *range(16, end, 4))}
    return not brands.isdisjoint(_AVIF_BRANDS)


_SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "image/jpeg": _is_jpeg,
    "image/png": _is_png,
    "image/webp": _is_webp,
    "image/gif": _is_gif,
    "image/bmp": _is_bmp,
    "image/tiff": _is_tiff,
    "image/avif": _is_avif,
}


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Walk the segments up to the first frame header (ITU T.81, B.1 and B.2)."""
    at = 2
    while head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None


def _png_size(head: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from(">II", head, 16)
    return width, height


def _gif_size(head: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from("<HH", head, 6)
    return width, height


def _bmp_size(head: bytes) -> tuple[int, int] | None:
    if head[14] == 12:
        width, height = struct.unpack_from("<HH", head, 18)
    else:
        width, height = struct.unpack_from("<ii", head, 18)
    return max(width, 0), abs(height)  # a negative height means rows from the top down


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Return the canvas size of an extended file, else the size of the frame (RFC 9649, section 2)."""
    if head[12:16] == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", head, 24)
        return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    if head[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


class _BoundedReader:
    """A file from which imagesize can read at most `HEAD_BYTES` bytes, so that no forged count keeps it busy."""

    def __init__(self, whole: IO[bytes]) -> None:
        self._whole, self._left = whole, HEAD_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise EOFError
        self._left -= size
        return self._whole.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._whole.seek(offset, whence)


def _size_by_library(whole: IO[bytes]) -> tuple[int, int] | None:
    """Return the stored size, before any rotation. imagesize returns negative numbers if it cannot parse a file."""
    width, height = imagesize.get(_BoundedReader(whole), exif_rotation=False)
    return (width, height) if width >= 0 and height >= 0 else None


_SIZES: dict[str, Callable[[bytes], tuple[int, int] | None]] = {
    "image/jpeg": _jpeg_size,
    "image/png": _png_size,
    "image/webp": _webp_size,
    "image/gif": _gif_size,
    "image/bmp": _bmp_size,
}

#: The formats whose size imagesize reads. It is wrong for GIFs wider than 32,767 pixels, BMPs of the first version and
#: scaled WebPs, so our own parsers read the formats above.
_SIZED_BY_LIBRARY = frozenset({"image/tiff", "image/avif"})
