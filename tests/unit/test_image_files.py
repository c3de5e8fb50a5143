"""What is opened of a file is what viewers show of it, and what they show otherwise than it is analysed is said."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from shared.errors import ErrorCode, JobError
from shared.images.header import ImageLimits
from tests.support.avif_files import clean_aperture, with_clean_aperture, with_colours
from tests.support.bad_images import photograph, png_chunk, saved
from worker.imaging.decoding import Caveat, DecodedImage, decode

LIMITS = ImageLimits()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_SRGB_PRIMARIES = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
_P3_PRIMARIES = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def read(data: bytes) -> DecodedImage:
    return decode(data, LIMITS)


def caveats(data: bytes) -> set[Caveat]:
    return set(read(data).facts.caveats)


def profile(space: bytes, gamma: float, primaries: tuple[tuple[float, float, float], ...] = ()) -> bytes:
    """An ICC profile of version 2 with curves of one gamma (ICC.1:2001-04)."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65_536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249)), b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(83)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    for name, primary in zip(b"rgb", primaries, strict=False):
        tags[bytes([name]) + b"XYZ"], tags[bytes([name]) + b"TRC"] = xyz(primary), curve
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name_, tag in tags.items():
        table += name_ + struct.pack(">II", at + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    header = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x0210_0000, b"mntr", space, b"XYZ ")
    header = header.ljust(36, b"\0") + b"acsp" + bytes(28) + struct.pack(">3i", 63_190, 65_536, 54_061)
    return header.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_that_changes_colours_is_said(file_format: str):
    with Image.open(Path(__file__).parents[2] / "deploy/samples/rocket.jpg") as sample:
        adobe = sample.info["icc_profile"]
    others = [adobe, profile(b"RGB ", 2.2, _P3_PRIMARIES), profile(b"RGB ", 1.0, _SRGB_PRIMARIES)]
    for icc in (SRGB, profile(b"RGB ", 2.2, _SRGB_PRIMARIES), b""):
        assert caveats(saved(photograph(), file_format, icc_profile=icc)) == set()
    for icc in (*others, b"no profile at all"):
        assert caveats(saved(photograph(), file_format, icc_profile=icc)) == {Caveat.NOT_SRGB}


def test_the_profile_of_grey_is_its_curve():
    grey = photograph().convert("L")
    assert caveats(saved(grey, "JPEG", icc_profile=profile(b"GRAY", 2.2))) == set()
    assert caveats(saved(grey, "JPEG", icc_profile=profile(b"GRAY", 1.0))) == {Caveat.NOT_SRGB}


def with_chunks(**added: bytes) -> bytes:
    """A PNG with these chunks before its pixels."""
    file = saved(photograph(), "PNG")
    at = file.index(b"IDAT") - 4
    return file[:at] + b"".join(png_chunk(kind.encode(), body) for kind, body in added.items()) + file[at:]


SRGB_POINTS = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_POINTS = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "srgb"),
    [
        ({}, True),
        ({"gAMA": struct.pack(">I", 45455)}, True),
        ({"gAMA": struct.pack(">I", 100_000)}, False),
        ({"gAMA": struct.pack(">I", 55_556)}, False),
        ({"cHRM": SRGB_POINTS, "gAMA": struct.pack(">I", 45455)}, True),
        ({"cHRM": P3_POINTS, "gAMA": struct.pack(">I", 45455)}, False),
        ({"cHRM": P3_POINTS}, False),
        ({"sRGB": b"\0", "gAMA": struct.pack(">I", 100_000)}, True),
        ({"cICP": bytes([1, 13, 0, 1])}, True),
        ({"cICP": bytes([9, 16, 0, 1])}, False),
        ({"cICP": bytes([1, 18, 0, 1])}, False),
        ({"cICP": bytes([12, 13, 0, 1])}, False),
        ({"cICP": bytes([1, 13, 0, 1]), "gAMA": struct.pack(">I", 100_000)}, True),
        ({"sRGB": b"\0", "cICP": bytes([9, 16, 0, 1])}, False),
    ],
    ids=str,
)
def test_what_a_png_says_of_its_colours(chunks: dict[str, bytes], srgb: bool):
    assert caveats(with_chunks(**chunks)) == (set() if srgb else {Caveat.NOT_SRGB})


@pytest.mark.parametrize(
    ("codes", "srgb"), [((1, 13), True), ((2, 2), True), ((9, 16), False), ((9, 18), False), ((12, 13), False)]
)
def test_what_an_avif_says_of_its_colours(codes: tuple[int, int], srgb: bool):
    assert caveats(with_colours(saved(photograph(), "AVIF"), *codes)) == (set() if srgb else {Caveat.NOT_SRGB})


def bmp(kind: bytes, gamma: float = 0, endpoints: tuple[float, ...] = (0,) * 9, icc: bytes = b"") -> bytes:
    """A BMP with a header of version 5."""
    old = saved(photograph(), "BMP")
    header = old[18:54].ljust(52, b"\0") + kind
    header += struct.pack("<9i", *(round(value * (1 << 30)) for value in endpoints))
    header += struct.pack("<3I", *[round(gamma * 65_536)] * 3)
    header += struct.pack("<IIII", 4, 124 + len(old) - 54, len(icc), 0)
    start = 14 + 124
    size = start + len(old) - 54 + len(icc)
    return b"BM" + struct.pack("<IIII", size, 0, start, 124) + header + old[54:] + icc


SRGB_ENDPOINTS = (0.4124, 0.2126, 0.0193, 0.3576, 0.7152, 0.1192, 0.1805, 0.0722, 0.9505)


@pytest.mark.parametrize(
    ("data", "srgb"),
    [
        (bmp(b"BGRs"), True),
        (bmp(b" niW"), True),
        (bmp(bytes(4)), True),
        (bmp(bytes(4), 2.2, SRGB_ENDPOINTS), True),
        (bmp(bytes(4), 1.0, SRGB_ENDPOINTS), False),
        (bmp(bytes(4), 2.2, (0.5, 0.2, 0.3) * 3), False),
        (bmp(b"DEBM", icc=SRGB), True),
        (bmp(b"DEBM", icc=profile(b"RGB ", 2.2, _P3_PRIMARIES)), False),
        (bmp(b"KNIL"), False),
    ],
    ids=range(9),
)
def test_what_a_bmp_says_of_its_colours(data: bytes, srgb: bool):
    np.testing.assert_array_equal(np.asarray(read(data).image), np.asarray(photograph()))
    assert caveats(data) == (set() if srgb else {Caveat.NOT_SRGB})


@pytest.mark.parametrize("frames", [1, 3])
def test_the_default_image_of_an_apng_is_analysed_only_where_it_is_a_frame(frames: int):
    hidden, shown = Image.new("RGB", (64, 48), "red"), photograph()
    rest = [shown, *(Image.new("RGB", (64, 48), (0, level, 0)) for level in range(frames - 1))]
    image = read(saved(hidden, "PNG", save_all=True, append_images=rest, default_image=True))
    np.testing.assert_array_equal(np.asarray(image.image), np.asarray(shown))
    assert set(image.facts.caveats) == {Caveat.HIDDEN_DEFAULT} | ({Caveat.FIRST_FRAME} if frames > 1 else set())
    ordinary = read(saved(shown, "PNG", save_all=True, append_images=[hidden]))
    np.testing.assert_array_equal(np.asarray(ordinary.image), np.asarray(shown))
    assert ordinary.facts.caveats == (Caveat.FIRST_FRAME,)


def test_an_apng_whose_frames_are_wrong_is_its_default_image():
    hidden, shown = Image.new("RGB", (64, 48), "red"), photograph()
    file = saved(hidden, "PNG", save_all=True, append_images=[shown, hidden], default_image=True)
    at, end = file.index(b"fdAT") - 4, file.index(b"IEND") - 4
    image = read(file[:at] + file[end:])  # its frames have no data
    np.testing.assert_array_equal(np.asarray(image.image), np.asarray(hidden))
    assert image.facts.caveats == ()


def test_only_the_clean_aperture_of_an_avif_is_analysed():
    whole = saved(photograph(), "AVIF", quality=95)
    all_of_it = np.asarray(read(whole).image)
    cut = read(with_clean_aperture(whole, clean_aperture(30, 20, Fraction(-5), Fraction(3))))
    np.testing.assert_array_equal(np.asarray(cut.image), all_of_it[17:37, 12:42])
    assert (cut.facts.width, cut.facts.height) == (30, 20)


def test_a_clean_aperture_is_cut_out_before_the_image_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.asarray(read(saved(photograph(), "AVIF", quality=95)).image)
    turned = saved(photograph(), "AVIF", quality=95, exif=exif)
    cut = read(with_clean_aperture(turned, clean_aperture(30, 20, Fraction(-5), Fraction(3))))
    np.testing.assert_array_equal(np.asarray(cut.image), np.rot90(stored[17:37, 12:42], -1))


@pytest.mark.parametrize(
    "box",
    [
        clean_aperture(30, 20, Fraction(100), Fraction(0)),
        clean_aperture(31, 20, Fraction(0), Fraction(0)),
        clean_aperture(0, 20, Fraction(0), Fraction(0)),
        struct.pack(">I4sIIIIiIiI", 40, b"clap", 30, 0, 20, 1, 0, 1, 0, 1),
    ],
    ids=["outside", "half pixels", "nothing", "a zero denominator"],
)
def test_an_aperture_that_viewers_ignore_is_ignored(box: bytes):
    whole = saved(photograph(), "AVIF")
    np.testing.assert_array_equal(
        np.asarray(read(with_clean_aperture(whole, box)).image), np.asarray(read(whole).image)
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_said_only_where_a_pixel_has_it(mode: str):
    opaque = photograph().convert("RGBA")
    holed = opaque.copy()
    holed.putpixel((40, 30), (9, 9, 9, 254))
    for image, expected in ((opaque, set()), (holed, {Caveat.ALPHA_DROPPED})):
        converted = image.quantize(64) if mode in {"P", "PA"} else image.convert(mode)
        assert caveats(saved(converted, "PNG")) == expected


def test_the_transparent_colour_of_a_png_is_looked_for():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert caveats(saved(red, "PNG", transparency=(255, 0, 0))) == {Caveat.ALPHA_DROPPED}
    assert caveats(saved(red, "PNG", transparency=(0, 255, 0))) == set()
    deep = Image.fromarray(np.full((8, 8), 700, np.uint16))
    assert Caveat.ALPHA_DROPPED in caveats(saved(deep, "PNG", transparency=700))
    assert Caveat.ALPHA_DROPPED not in caveats(saved(deep, "PNG", transparency=701))


def test_sixteen_bits_a_pixel_are_not_sixteen_a_sample():
    rows = struct.pack("<64H", *range(0, 0x7FFF, 512)) * 48
    header = struct.pack("<IiiHHIIiiII", 40, 64, 48, 1, 16, 0, len(rows), 0, 0, 0, 0)
    assert caveats(b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows) == set()


@pytest.mark.parametrize("share", [0.4, 0.7, 0.9])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF", "AVIF"])
def test_a_file_whose_end_was_never_written_is_damaged(file_format: str, share: float):
    image = photograph(400, 300)
    for options in ({}, {"lossless": True}) if file_format == "WEBP" else ({},):
        whole = saved(image, file_format, **options)
        cut = int(len(whole) * share)
        with pytest.raises(JobError) as refused:
            read(whole[:cut] + bytes(len(whole) - cut))
        assert refused.value.code == ErrorCode.CORRUPT_IMAGE


def test_a_png_with_damage_that_its_checksum_shows_is_damaged():
    whole = saved(photograph(400, 300), "PNG")
    for at in range(100, len(whole) - 100, len(whole) // 25):
        damaged = bytearray(whole)
        damaged[at] ^= 0x20
        with pytest.raises(JobError) as refused:
            read(bytes(damaged))
        assert refused.value.code == ErrorCode.CORRUPT_IMAGE


def test_a_png_without_its_last_chunk_has_all_pixels():
    whole = saved(photograph(), "PNG")
    for cut in (whole[:-12], whole[:-8], whole[:-1]):
        image = read(cut)
        np.testing.assert_array_equal(np.asarray(image.image), np.asarray(photograph()))
        assert Caveat.NO_END in image.facts.caveats


def png_of_rows(pixels: np.ndarray, interlaced: bool = False) -> bytes:
    """A PNG of 64 × 48 that has only these rows, or the passes of these pixels."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[top::down, left::right] for top, left, down, right in passes] if interlaced else [pixels]
    rows = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("black", [False, True])
def test_a_png_with_less_rows_than_it_says_is_damaged(black: bool, interlaced: bool):
    pixels = np.asarray(photograph()).copy()
    if black:
        pixels[20:] = 0  # the rows that are there may be black, too
    np.testing.assert_array_equal(np.asarray(read(png_of_rows(pixels, interlaced)).image), pixels)
    for rows in (1, 24, 47):
        with pytest.raises(JobError) as refused:
            read(png_of_rows(pixels[:rows], interlaced))
        assert refused.value.code == ErrorCode.CORRUPT_IMAGE


def test_deep_samples_of_an_avif_are_said():
    file = bytearray(saved(photograph(), "AVIF"))
    at = file.index(b"pixi") + 4
    assert file[at + 4 : at + 8] == b"\x03\x08\x08\x08"
    assert caveats(bytes(file)) == set()
    assert Image.open(io.BytesIO(file)).mode == "RGB"
