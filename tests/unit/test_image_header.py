"""The checks on a file's first bytes."""

from __future__ import annotations

import io
import struct
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.errors import ErrorCode, JobError
from shared.images.header import HEAD_BYTES, ImageLimits, check_header, check_size, claimed_size, sniff
from tests.support.bad_images import ACCEPTED, REFUSED, OddImage, photograph, saved

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_HEADER_ANSWERS = {
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.IMAGE_TOO_LARGE,
    ErrorCode.DECOMPRESSION_BOMB,
    ErrorCode.CORRUPT_IMAGE,
    *(f"image/{name.lower()}" for name in _FORMATS),
}
_file = cache(lambda file_format: saved(photograph(), file_format))


def code_of(width: int, height: int, byte_count: int = 1_000_000) -> ErrorCode | None:
    try:
        check_size(width, height, byte_count, ImageLimits())
    except JobError as error:
        return error.code
    return None


def header_answer(head: bytes) -> str:
    try:
        return check_header(head, len(head), ImageLimits())
    except JobError as error:
        return error.code


@pytest.mark.parametrize("file_format", _FORMATS)
def test_each_format_is_known_by_its_content(file_format: str):
    assert sniff(saved(photograph(), file_format)) == f"image/{file_format.lower()}"


@pytest.mark.parametrize("odd", ACCEPTED, ids=lambda odd: odd.name)
def test_what_is_accepted_passes_the_header_check(odd: OddImage):
    assert check_header(odd.data[:HEAD_BYTES], len(odd.data), ImageLimits()) == odd.media_type


def test_the_header_alone_refuses_what_is_no_image_or_too_large():
    by_header = {ErrorCode.UNSUPPORTED_MEDIA_TYPE, ErrorCode.IMAGE_TOO_LARGE, ErrorCode.DECOMPRESSION_BOMB}
    decoder_only = {
        "floating-point tiff",
        "png with a text bomb",
        "png with a profile bomb",
    }
    for odd in REFUSED:
        if odd.code in by_header and odd.name not in decoder_only:
            with pytest.raises(JobError) as refused:
                check_header(odd.data[:HEAD_BYTES], len(odd.data), ImageLimits())
            assert refused.value.code == odd.code, odd.name


@pytest.mark.parametrize(
    "head", [b"BM is how this text begins", b"RIFF....WAVE", b"\0\0\0\x18ftypheic....mif1heic", b"GIF88a"]
)
def test_a_likeness_is_not_enough(head: bytes):
    assert sniff(head) is None


@pytest.mark.parametrize("file_format", _FORMATS)
def test_the_size_is_read_from_the_header(file_format: str):
    assert claimed_size(saved(photograph(321, 123), file_format)) == (321, 123)


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
def test_the_size_of_every_kind_of_webp_is_read(options: dict[str, object]):
    assert claimed_size(saved(photograph(321, 123), "WEBP", **options)) == (321, 123)


def test_the_size_of_a_bmp_from_the_top_down_is_positive():
    bmp = bytearray(saved(photograph(), "BMP"))
    bmp[22:26] = (-48).to_bytes(4, "little", signed=True)
    assert claimed_size(bytes(bmp)) == (64, 48)


@pytest.mark.parametrize("file_format", _FORMATS)
def test_a_head_of_any_length_tells_the_truth_or_nothing(file_format: str):
    data = saved(photograph(), file_format)
    sizes = [claimed_size(data[:length]) for length in range(len(data) + 1)]
    assert set(sizes) == {None, (64, 48)}
    assert sizes == sorted(sizes, key=bool), "what is known of a head is known of every longer one"
    types = [sniff(data[:length]) for length in range(len(data) + 1)]
    assert types == sorted(types, key=bool)
    assert set(types) == {None, f"image/{file_format.lower()}"}


@given(st.sampled_from(_FORMATS), st.binary(max_size=64), st.data())
def test_a_head_of_any_bytes_has_a_type_and_a_size_or_a_refusal(file_format: str, noise: bytes, data: st.DataObject):
    whole = _file(file_format)
    at = data.draw(st.integers(0, min(len(whole), 700)))
    head = whole[:at] + noise + whole[at + len(noise) :]
    assert header_answer(head) in _HEADER_ANSWERS
    size = claimed_size(head)
    assert size is None or all(type(side) is int and side >= 0 for side in size)


def test_a_jpeg_with_long_metadata_gives_its_size_away_later():
    data = saved(photograph(), "JPEG", icc_profile=bytes(200_000))
    assert claimed_size(data[:HEAD_BYTES]) is None
    assert claimed_size(data) == (64, 48)


def test_too_many_bytes_are_refused_unread():
    with pytest.raises(JobError) as refused:
        check_header(b"", 20_000_001, ImageLimits())
    assert refused.value.code == ErrorCode.IMAGE_TOO_LARGE


def test_the_limits_are_inclusive():
    assert code_of(8000, 5000) is None
    assert code_of(8000, 5001) == ErrorCode.IMAGE_TOO_LARGE
    assert code_of(3200, 100) is None
    assert code_of(3201, 100) == ErrorCode.IMAGE_TOO_LARGE
    assert code_of(100, 3201) == ErrorCode.IMAGE_TOO_LARGE


def test_a_bomb_is_an_image_too_large_for_its_bytes():
    assert code_of(40_000, 40_000, 1_600_000) == ErrorCode.IMAGE_TOO_LARGE
    assert code_of(40_000, 40_000, 1_599_999) == ErrorCode.DECOMPRESSION_BOMB
    assert code_of(100, 100, 1) is None, "within the limit of pixels nothing is a bomb"


def test_no_pixels_are_a_corrupt_image():
    assert code_of(0, 10) == code_of(10, 0) == ErrorCode.CORRUPT_IMAGE


def test_an_avif_of_another_major_brand_is_an_avif():
    data = saved(Image.new("RGB", (64, 48)), "AVIF")
    assert sniff(data[:8] + b"mif1" + data[12:]) == "image/avif"


def test_a_bmp_of_negative_width_has_no_pixels():
    header = b"BM" + bytes(12) + struct.pack("<Iii", 40, -(1 << 31), 48)
    assert claimed_size(header) == (0, 48)


@pytest.mark.parametrize("mark", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"])
def test_both_byte_orders_of_tiff_and_bigtiff_are_known(mark: bytes):
    assert sniff(mark + bytes(8)) == "image/tiff"
    assert sniff(mark.lower() + bytes(8)) is None


def ftyp(*brands: bytes) -> bytes:
    """The first box of a file: the major brand, a version, and what else it is compatible with."""
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I4s", 8 + len(body), b"ftyp") + body


def test_each_brand_of_an_avif_counts_and_none_that_is_read_across_two():
    assert sniff(ftyp(b"avif") + bytes(300)) == "image/avif"
    assert sniff(ftyp(b"mif1", b"miaf", b"MA1B", b"avif") + bytes(300)) == "image/avif"
    assert sniff(ftyp(b"mif1", b"xavi", b"fxxx") + bytes(300)) is None
    assert sniff(ftyp(b"mif1", b"xxav", b"ifxx") + bytes(300)) is None
    assert sniff(ftyp(b"mif1", b"miaf") + b"avif" + bytes(300)) is None, "beyond the box"


def test_of_a_box_without_end_only_so_much_is_looked_at():
    brands = [b"mif1"] * 60
    assert sniff(ftyp(*brands, b"avif")) == "image/avif"  # at byte 252, the last
    assert sniff(ftyp(*brands, b"mif1", b"avif")) is None


def tiff(order: str, *, big: bool = False, entries: int = 2, at: int = 0) -> bytes:
    """A TIFF's header and its directory with a width of 60,000 and a height of 40,000, `at` bytes later."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        fields = struct.pack(f"{order}HHQQHHQQ", 256, 4, 1, 60_000, 257, 4, 1, 40_000)
        return mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16 + at) + bytes(at) + struct.pack("<Q", entries) + fields
    fields = struct.pack(f"{order}HHLLHHLL", 256, 4, 1, 60_000, 257, 4, 1, 40_000)
    return mark + struct.pack(f"{order}HL", 42, 8 + at) + bytes(at) + struct.pack(f"{order}H", entries) + fields


@pytest.mark.parametrize("data", [tiff("<"), tiff(">"), tiff("<", big=True), tiff("<") + tiff("<")])
def test_the_size_of_a_tiff_is_that_of_its_first_directory(data: bytes):
    assert claimed_size(data) == (60_000, 40_000)


def test_a_directory_of_a_tiff_beyond_the_head_is_found_in_the_whole_file():
    data = tiff("<", at=200_000)
    assert claimed_size(data[:HEAD_BYTES]) is None
    assert claimed_size(data[:HEAD_BYTES], io.BytesIO(data)) == (60_000, 40_000)


@pytest.mark.parametrize("rotation", [0, 6])
def test_the_size_of_a_tiff_is_that_before_rotation(rotation: int):
    exif = Image.Exif()
    exif[0x0112] = rotation
    assert claimed_size(saved(photograph(321, 123), "TIFF", exif=exif.tobytes())) == (321, 123)


def test_a_directory_without_end_is_not_read_to_its_end():
    whole = CountingReader(b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2**64 - 1) + bytes(2_000_000))
    assert claimed_size(whole.getvalue()[:HEAD_BYTES], whole) is None
    assert whole.count <= HEAD_BYTES


class CountingReader(io.BytesIO):
    """Counts the bytes that are read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


_FRAME = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 40_000, 60_000) + bytes(9)


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\xff\xff\xff",
        b"\xff\xd8\xff\x01",
        b"\xff\xe0\0\x06abcd\xff\xff\xff\xd8\xff\xe1\0\x02",
    ],
    ids=["nothing", "padding", "markers without a length", "all of it"],
)
def test_the_size_of_a_jpeg_is_found_after_whatever_comes_before(before: bytes):
    assert claimed_size(b"\xff\xd8\xff\xfe\0\x04xx" + before + _FRAME) == (60_000, 40_000)


def test_a_bmp_of_the_first_kind_has_sizes_of_two_bytes():
    head = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 60_000, 40_000, 1, 24)
    assert claimed_size(head) == (60_000, 40_000)
    assert claimed_size(b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 70_000, -3, 1, 24)) == (70_000, 3)


@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (b"VP8X" + bytes(8) + b"\xff\xff\xfe\x01\0\xfd", (0xFEFFFF + 1, 0xFD0001 + 1)),
        (b"VP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 0x3FFF | 0x3FFE << 14 | 1 << 31), (0x4000, 0x3FFF)),
        (b"VP8 " + bytes(10) + struct.pack("<HH", 0xBFFF, 0xC001), (0x3FFF, 1)),
    ],
    ids=["extended", "lossless", "lossy"],
)
def test_the_largest_sizes_of_a_webp_are_read(chunk: bytes, size: tuple[int, int]):
    assert claimed_size(b"RIFF" + bytes(4) + b"WEBP" + chunk) == size
