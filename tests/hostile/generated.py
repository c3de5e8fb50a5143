"""Hostile files made here: bombs, files that are two things at once, files cut off. All are made anew in seconds."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from shared.errors import ErrorCode
from tests.hostile.corpora import HostileFile
from tests.support.bad_images import ACCEPTED, REFUSED, OddImage, photograph, png, png_chunk, saved

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_CUTS = 24  # of each format
_BOMB, _LARGE, _CORRUPT = ErrorCode.DECOMPRESSION_BOMB, ErrorCode.IMAGE_TOO_LARGE, ErrorCode.CORRUPT_IMAGE
_UNSUPPORTED = ErrorCode.UNSUPPORTED_MEDIA_TYPE
_ROWS = zlib.compress((b"\0" + bytes(64 * 3)) * 48)


def _apng(width: int, height: int, frame_width: int, frame_height: int, frames: int = 2) -> bytes:
    control = png_chunk(b"acTL", struct.pack(">II", frames, 0))
    shape = struct.pack(">IIIIIHHBB", 0, frame_width, frame_height, 0, 0, 1, 10, 0, 0)
    return png(width, height, control, png_chunk(b"fcTL", shape), png_chunk(b"IDAT", _ROWS))


def _apng_of_many_frames() -> bytes:
    """A still image that says that 4 billion frames follow."""
    return _apng(64, 48, 64, 48, 0xFFFFFFFF)


def _gif_frame(width: int, height: int) -> bytes:
    """A canvas of 64 × 48 with a frame that reaches far beyond it."""
    gif = bytearray(saved(photograph(), "GIF"))
    at = gif.index(b"\x2c\0\0\0\0\x40\0\x30\0")
    struct.pack_into("<HH", gif, at + 5, width, height)
    return bytes(gif)


def _gif_of_many_frames() -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return saved(photograph(), "GIF")[:-1] + frame * 200_000 + b";"


def _bmp_header(width: int, height: int, compression: int, body: bytes, bits: int = 8) -> bytes:
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + header + palette + body


def _bmp_runs() -> bytes:
    """36 million pixels in runs of 255, each of two bytes."""
    return _bmp_header(6000, 6000, 1, b"\xff\x07" * (36_000_000 // 255 + 1) + b"\0\1")


def _bmp_skips() -> bytes:
    """Jumps far beyond the image, again and again."""
    return _bmp_header(6000, 6000, 1, b"\0\2\xff\xff" * 1_000_000)


def _bmp_pixels() -> bytes:
    """Nine million runs of one pixel each."""
    return _bmp_header(6000, 6000, 1, b"\x01\x07" * 9_500_000)


def _bmp_nothing() -> bytes:
    """Ten million empty commands, which a reader obeys one by one."""
    return _bmp_header(6000, 6000, 1, b"\0\0" * 9_500_000)


def _chunks_that_unpack(kind: bytes, count: int, each: int) -> bytes:
    packed = zlib.compress(bytes(each), 9)
    head = {b"zTXt": b"%d\0\0", b"iTXt": b"%d\0\1\0\0\0"}[kind]
    chunks = (png_chunk(kind, head % number + packed) for number in range(count))
    return png(64, 48, *chunks, png_chunk(b"IDAT", _ROWS))


def _idat_of_a_gigabyte() -> bytes:
    """A small image whose pixels go on for a gigabyte after its last row."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    return png(64, 48, png_chunk(b"IDAT", packed))


def _png_of_many_chunks() -> bytes:
    return png(64, 48, png_chunk(b"tEXt", b"a\0b") * 200_000, png_chunk(b"IDAT", _ROWS))


def _tiff(entries: list[tuple[int, int, int, int]], after: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of one directory at offset 8; `following` is where the next one would be."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", following) + after


def _tiff_entries(
    width: int, height: int, compression: int, offset: int, count: int
) -> list[tuple[int, int, int, int]]:
    short, long = 3, 4
    values = {256: width, 257: height, 259: compression, 262: 1, 258: 8, 277: 1, 278: height, 273: offset, 279: count}
    return [(tag, short if tag in {258, 259, 262, 277} else long, 1, value) for tag, value in values.items()]


def _tiff_deflated(width: int, height: int, unpacked: int) -> bytes:
    packed = zlib.compress(bytes(unpacked), 9)
    offset = 8 + 2 + 9 * 12 + 4
    return _tiff(_tiff_entries(width, height, 8, offset, len(packed)), packed)


def _tiff_in_a_circle() -> bytes:
    return _tiff(_tiff_entries(64, 48, 1, 8, 64 * 48), bytes(64 * 48), following=8)


def _tiff_with_endless_tag() -> bytes:
    entries = [*_tiff_entries(64, 48, 1, 8, 64 * 48), (270, 2, 0xFFFFFFF0, 8), (34675, 7, 0x7FFFFFFF, 8)]
    return _tiff(entries, bytes(64 * 48))


def _tiff_of_many_pages() -> bytes:
    """20,000 directories in a row, each saying where the next one is."""
    entries = _tiff_entries(1, 1, 1, 4, 1)
    length = 2 + 12 * len(entries) + 4
    pages = (_tiff(entries, following=8 + (number + 1) * length)[8:] for number in range(20_000))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def _jpeg_of_size(width: int, height: int) -> bytes:
    jpeg = bytearray(saved(photograph(), "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, height, width)
    return bytes(jpeg)


def _jpeg_of_many_scans(scans: int, side: int = 6000) -> bytes:
    """A progressive JPEG whose reader goes over all of its blocks for each of `scans` scans of a few bytes."""
    jpeg = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True, quality=30)
    start = jpeg.rindex(b"\xff\xda")
    # Refinement of one coefficient: an end-of-band run over 32,767 blocks, written with the last scan's own table.
    return jpeg[:-2] + jpeg[start:-2] * scans + b"\xff\xd9"


def _avif_of_size(width: int, height: int) -> bytes:
    avif = bytearray(saved(photograph(), "AVIF"))
    struct.pack_into(">II", avif, avif.index(b"ispe") + 8, width, height)
    return bytes(avif)


def _webp_frames(width: int, height: int) -> bytes:
    """An animation with a frame that says it is larger than its canvas."""
    frames = [photograph(), photograph().rotate(180)]
    webp = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = webp.index(b"ANMF") + 8 + 6
    webp[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(webp)


#: Refused, and at once: what they would unpack to may not be unpacked.
BOMBS = (
    *(odd for odd in REFUSED if odd.code in {_BOMB, _LARGE}),
    OddImage("apng canvas of 50,000 x 50,000", lambda: _apng(50_000, 50_000, 64, 48), _BOMB),
    OddImage("gif frame of 65,535 x 65,535", lambda: _gif_frame(65_535, 65_535), _BOMB),
    OddImage("gif frame of 9,000 x 9,000", lambda: _gif_frame(9_000, 9_000), _BOMB),
    OddImage("bmp of 60,000 x 60,000", lambda: _bmp_header(60_000, 60_000, 1, b"\0\1"), _BOMB),
    OddImage("jpeg of 65,500 x 65,500", lambda: _jpeg_of_size(65_500, 65_500), _BOMB),
    OddImage("jpeg of 10,000 scans", lambda: _jpeg_of_many_scans(10_000), _BOMB),
    OddImage("avif of 65,535 x 65,535", lambda: _avif_of_size(65_535, 65_535), _BOMB),
    OddImage("tiff of 60,000 x 60,000, deflated", lambda: _tiff_deflated(60_000, 60_000, 1 << 24), _BOMB),
    OddImage("40 compressed texts of 2 MB", lambda: _chunks_that_unpack(b"zTXt", 40, 2 << 20), _BOMB),
    OddImage("an international text of 100 MB", lambda: _chunks_that_unpack(b"iTXt", 1, 100_000_000), _BOMB),
)

_HTML = b"<!DOCTYPE html><script>alert(document.domain)</script>"


def _zipped(front: bytes) -> bytes:
    buffer = io.BytesIO()
    buffer.write(front)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("run.js", "alert(1)")
    return buffer.getvalue()


def _jpeg_with_pdf() -> bytes:
    jpeg, pdf = saved(photograph(), "JPEG"), saved(photograph(), "PDF")
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", 2 + 512) + pdf[:512] + jpeg[2:] + pdf[512:]


def _gif_script() -> bytes:
    """A GIF that is JavaScript too: its width opens a comment, what follows its end closes it."""
    gif = bytearray(saved(photograph(), "GIF"))
    gif[6:8] = b"/*"
    return bytes(gif) + b"*/=1;alert(1)"


#: Nobody's verdict hangs on their second nature: they are what their first bytes say.
POLYGLOTS = (
    OddImage("gif and html", lambda: saved(photograph(), "GIF") + _HTML, None, "image/gif"),
    OddImage("gif and javascript", _gif_script, _LARGE),
    OddImage("png and zip", lambda: _zipped(saved(photograph(), "PNG")), None, "image/png"),
    OddImage("jpeg and zip", lambda: _zipped(saved(photograph(), "JPEG")), None, "image/jpeg"),
    OddImage("webp and html", lambda: saved(photograph(), "WEBP") + _HTML, None, "image/webp"),
    OddImage("jpeg and pdf", _jpeg_with_pdf, None, "image/jpeg"),
    OddImage("pdf and jpeg", lambda: b"%PDF-1.7\n" + saved(photograph(), "JPEG"), _UNSUPPORTED),
    OddImage("zip and png", lambda: _zipped(b"") + saved(photograph(), "PNG"), _UNSUPPORTED),
    OddImage("svg with a png inside", lambda: b"<svg>" + saved(photograph(), "PNG") + b"</svg>", _UNSUPPORTED),
    OddImage("html and jpeg", lambda: _HTML + saved(photograph(), "JPEG"), _UNSUPPORTED),
)

#: Made to cost much for little: whatever comes of them must come soon and hurt nobody.
COSTLY: dict[str, Callable[[], bytes]] = {
    "apng of 4 billion frames": _apng_of_many_frames,
    "apng with a frame larger than its canvas": lambda: _apng(64, 48, 50_000, 50_000),
    "gif of 200,000 frames": _gif_of_many_frames,
    "gif frame of 6,000 x 6,000": lambda: _gif_frame(6_000, 6_000),
    "bmp of long runs": _bmp_runs,
    "bmp of skips": _bmp_skips,
    "bmp of empty commands": _bmp_nothing,
    "png with a gigabyte after its last row": _idat_of_a_gigabyte,
    "png of 200,000 texts": _png_of_many_chunks,
    "png of 36 million pixels without data": lambda: png(6000, 6000, png_chunk(b"IDAT", _ROWS)),
    "tiff strip of a gigabyte": lambda: _tiff_deflated(64, 48, 1 << 30),
    "tiff of 6,000 x 6,000, deflated": lambda: _tiff_deflated(6000, 6000, 36_000_000),
    "tiff in a circle": _tiff_in_a_circle,
    "tiff with endless tags": _tiff_with_endless_tag,
    "tiff of 20,000 pages": _tiff_of_many_pages,
    "bmp of runs of one pixel": _bmp_pixels,
    "jpeg of 40 scans": lambda: _jpeg_of_many_scans(30),
    "webp frame larger than its canvas": lambda: _webp_frames(16_000, 16_000),
}


def largest() -> bytes:
    """A JPEG of as many pixels as are accepted; its upright copy costs the most memory."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(photograph(800, 500).resize((8000, 5000)), "JPEG", exif=exif, progressive=True)


def generated_files() -> Iterator[HostileFile]:
    """Every file made here, and the odd ones of the other tests."""
    for group, odds in {"odd": (*REFUSED, *ACCEPTED), "bomb": BOMBS, "polyglot": POLYGLOTS}.items():
        yield from (HostileFile(group, odd.name, odd.data) for odd in odds)
    yield from (HostileFile("costly", name, make()) for name, make in COSTLY.items())
    for file_format in FORMATS:
        whole = saved(photograph(), file_format)
        for cut in range(_CUTS):
            yield HostileFile("truncated", f"{file_format} {cut}/{_CUTS}", whole[: len(whole) * cut // _CUTS])
