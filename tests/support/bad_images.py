"""Files that an image service must have an answer for: hostile, broken, odd. All are made here and are small."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from shared.errors import ErrorCode
from worker.imaging.decoding import Caveat


@dataclass(frozen=True)
class OddImage:
    """A file, and the answer that is due: a job's error code, or what the result says of the image."""

    name: str
    make: Callable[[], bytes]
    code: ErrorCode | None = None
    media_type: str = ""
    size: tuple[int, int] = (64, 48)
    caveats: tuple[Caveat, ...] = ()

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        return _made(self.make)


@cache
def _made(make: Callable[[], bytes]) -> bytes:
    return make()


def photograph(width: int = 64, height: int = 48) -> Image.Image:
    """An RGB image with smooth and with noisy parts, always the same."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=2)
    noise = np.random.default_rng(7).integers(0, 40, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """`image` as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of the given header and chunks, whether they fit together or not."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def _pixels(rows: bytes) -> bytes:
    return png_chunk(b"IDAT", zlib.compress(rows, 1))


def _whole_png(*chunks: bytes) -> bytes:
    return png(64, 48, *chunks, _pixels((b"\0" + bytes(64 * 3)) * 48))


def _text_bomb() -> bytes:
    return _whole_png(png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)))


def _profile_bomb() -> bytes:
    return _whole_png(png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(100_000_000), 9)))


def _webp_canvas(width: int, height: int) -> bytes:
    canvas = struct.pack(
        "<IHBHB", 0, (width - 1) & 0xFFFF, (width - 1) >> 16, (height - 1) & 0xFFFF, (height - 1) >> 16
    )
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas + saved(photograph(), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif_canvas(width: int, height: int) -> bytes:
    gif = saved(photograph(), "GIF")
    return gif[:6] + struct.pack("<HH", width, height) + gif[10:]


def _tiff_canvas(width: int, height: int) -> bytes:
    tiff = bytearray(saved(photograph(), "TIFF"))
    (at,) = struct.unpack_from("<I", tiff, 4)
    for tag, value in ((256, width), (257, height)):
        entry = next(e for e in range(at + 2, len(tiff), 12) if struct.unpack_from("<H", tiff, e)[0] == tag)
        struct.pack_into("<HII", tiff, entry + 2, 4, 1, value)
    return bytes(tiff)


def _cut(file_format: str, share: float = 0.5) -> Callable[[], bytes]:
    def make() -> bytes:
        whole = saved(photograph(), file_format)
        return whole[: int(len(whole) * share)]

    return make


def _animated(file_format: str) -> bytes:
    frames = [photograph().quantize(), photograph().rotate(180).quantize()]
    if file_format != "GIF":
        frames = [frame.convert("RGB") for frame in frames]
    return saved(frames[0], file_format, save_all=True, append_images=frames[1:])


def _sixteen_bit_grey() -> bytes:
    ramp = np.linspace(0, 0xFFFF, 64 * 48).astype(np.uint16).reshape(48, 64)
    return saved(Image.fromarray(ramp), "PNG")


def _sixteen_bit_colour() -> bytes:
    samples = np.linspace(0, 0xFFFF, 64 * 48 * 3).astype(">u2").reshape(48, -1)
    return png(64, 48, _pixels(b"".join(b"\0" + row.tobytes() for row in samples)), depth=16)


def _palette_with_alpha() -> bytes:
    image = photograph().quantize(16)
    return saved(image, "PNG", transparency=bytes(range(0, 256, 16)))


def _with_a_hole() -> Image.Image:
    image = photograph().convert("RGBA")
    image.putpixel((5, 5), (0, 0, 0, 254))
    return image


def _honest_but_large() -> bytes:
    return saved(Image.new("L", (8000, 6000), 128), "JPEG")


def _upside_down() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photograph(48, 64), "JPEG", exif=exif)


_SVG = (
    b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
)
_HTML = b"<html><script>alert(1)</script></html>"
_UNSUPPORTED = ErrorCode.UNSUPPORTED_MEDIA_TYPE
_CORRUPT = ErrorCode.CORRUPT_IMAGE
_LARGE = ErrorCode.IMAGE_TOO_LARGE
_BOMB = ErrorCode.DECOMPRESSION_BOMB

REFUSED = (
    OddImage("empty", lambda: b"", _UNSUPPORTED),
    OddImage("text", lambda: b"This is not an image.\n" * 100, _UNSUPPORTED),
    OddImage("svg", lambda: _SVG, _UNSUPPORTED),
    OddImage("html, then a GIF", lambda: _HTML + saved(photograph(), "GIF"), _UNSUPPORTED),
    OddImage("pdf", lambda: saved(photograph(), "PDF"), _UNSUPPORTED),
    OddImage("jpeg 2000", lambda: saved(photograph(), "JPEG2000"), _UNSUPPORTED),
    OddImage("floating-point tiff", lambda: saved(Image.new("F", (64, 48)), "TIFF"), _UNSUPPORTED),
    OddImage("truncated jpeg", _cut("JPEG"), _CORRUPT),
    OddImage("jpeg cut and closed", lambda: _cut("JPEG")() + b"\xff\xd9", _CORRUPT),
    OddImage("jpeg whose end was never written", lambda: _cut("JPEG")() + bytes(2000), _CORRUPT),
    OddImage("truncated png", _cut("PNG"), _CORRUPT),
    OddImage("truncated webp", _cut("WEBP"), _CORRUPT),
    OddImage("truncated gif", _cut("GIF"), _CORRUPT),
    OddImage("truncated bmp", _cut("BMP"), _CORRUPT),
    OddImage("truncated tiff", _cut("TIFF"), _CORRUPT),
    OddImage("truncated avif", _cut("AVIF"), _CORRUPT),
    OddImage("png without its last bytes", _cut("PNG", 0.97), _CORRUPT),
    OddImage("signature alone", lambda: b"\x89PNG\r\n\x1a\n", _CORRUPT),
    OddImage("png without pixels", lambda: png(64, 48), _CORRUPT),
    OddImage("png of 0 x 0", lambda: png(0, 0, _pixels(b"")), _CORRUPT),
    OddImage(
        "png with a wrong checksum",
        lambda: _whole_png().replace(b"IHDR", b"IHDR", 1)[:29] + b"xxxx" + _whole_png()[33:],
        _CORRUPT,
    ),
    OddImage("1 x 60,000", lambda: saved(Image.new("RGB", (1, 60_000)), "PNG"), _LARGE),
    OddImage("48 million pixels", _honest_but_large, _LARGE),
    OddImage("40,000 x 40,000", lambda: png(40_000, 40_000, _pixels(bytes(1_000_000))), _BOMB),
    OddImage("gif of 65,535 x 65,535", lambda: _gif_canvas(65_535, 65_535), _BOMB),
    OddImage("webp of 16,384 x 16,384", lambda: _webp_canvas(16_384, 16_384), _BOMB),
    OddImage("tiff of 100,000 x 100,000", lambda: _tiff_canvas(100_000, 100_000), _BOMB),
    OddImage("tiff of 10,000 x 10,000", lambda: _tiff_canvas(10_000, 10_000), _BOMB),
    OddImage("png with a text bomb", _text_bomb, _BOMB),
    OddImage("png with a profile bomb", _profile_bomb, _BOMB),
)

ACCEPTED = (
    OddImage("1 x 1", lambda: saved(Image.new("RGB", (1, 1), "red"), "PNG"), None, "image/png", (1, 1)),
    OddImage("gif that is also html", lambda: saved(photograph(), "GIF", comment=_HTML) + _HTML, None, "image/gif"),
    OddImage("jpeg", lambda: saved(photograph(), "JPEG"), None, "image/jpeg"),
    OddImage(
        "jpeg without its end marker",
        lambda: saved(photograph(), "JPEG")[:-2],
        None,
        "image/jpeg",
        caveats=(Caveat.NO_END,),
    ),
    OddImage("webp", lambda: saved(photograph(), "WEBP"), None, "image/webp"),
    OddImage("bmp", lambda: saved(photograph(), "BMP"), None, "image/bmp"),
    OddImage("tiff", lambda: saved(photograph(), "TIFF", compression="tiff_lzw"), None, "image/tiff"),
    OddImage("avif", lambda: saved(photograph(), "AVIF"), None, "image/avif"),
    OddImage("on its side", _upside_down, None, "image/jpeg"),
    OddImage("animated gif", lambda: _animated("GIF"), None, "image/gif", caveats=(Caveat.FIRST_FRAME,)),
    OddImage("animated png", lambda: _animated("PNG"), None, "image/png", caveats=(Caveat.FIRST_FRAME,)),
    OddImage("animated webp", lambda: _animated("WEBP"), None, "image/webp", caveats=(Caveat.FIRST_FRAME,)),
    OddImage("tiff of two pages", lambda: _animated("TIFF"), None, "image/tiff", caveats=(Caveat.FIRST_IMAGE,)),
    OddImage("mpo", lambda: _animated("MPO"), None, "image/jpeg", caveats=(Caveat.FIRST_IMAGE,)),
    OddImage("cmyk", lambda: saved(photograph().convert("CMYK"), "JPEG"), None, "image/jpeg", caveats=(Caveat.CMYK,)),
    OddImage("16-bit grey", _sixteen_bit_grey, None, "image/png", caveats=(Caveat.SIXTEEN_BITS,)),
    OddImage("16-bit colour", _sixteen_bit_colour, None, "image/png", caveats=(Caveat.SIXTEEN_BITS,)),
    OddImage("palette with alpha", _palette_with_alpha, None, "image/png", caveats=(Caveat.ALPHA_DROPPED,)),
    OddImage(
        "rgb with alpha",
        lambda: saved(_with_a_hole(), "PNG"),
        None,
        "image/png",
        caveats=(Caveat.ALPHA_DROPPED,),
    ),
    OddImage("lab tiff", lambda: saved(Image.new("LAB", (64, 48)), "TIFF"), None, "image/tiff"),
    OddImage("one bit", lambda: saved(photograph().convert("1"), "PNG"), None, "image/png"),
)
