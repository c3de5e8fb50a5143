"""The checks on a file's first bytes."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.errors import ErrorCode, JobError
from shared.media import HEAD_BYTES, ImageLimits, check_header, check_size, claimed_size, jpeg_scans, sniff
from tests.bad_images import ACCEPTED, REFUSED, OddImage, photograph, saved

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
        "tiff of 100,000 x 100,000",
        "tiff of 10,000 x 10,000",
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


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
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
    known = file_format not in {"TIFF", "AVIF"}
    assert set(sizes) == ({None, (64, 48)} if known else {None})
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


@given(st.binary(max_size=200), st.binary(max_size=400))
def test_scans_are_counted_in_any_bytes(start: bytes, rest: bytes):
    assert 0 <= jpeg_scans(start + rest) <= (start + rest).count(b"\xda")


@pytest.mark.parametrize(("progressive", "scans"), [(False, 1), (True, 10)])
def test_the_scans_of_a_jpeg_are_counted(progressive: bool, scans: int):
    segments = {"icc_profile": b"\xff\xda" * 500, "comment": b"\xff\xda\xff\xd9" * 50}
    jpeg = saved(photograph(), "JPEG", progressive=progressive, **segments)
    assert jpeg_scans(jpeg) == scans, "what lies in metadata is none"
    assert jpeg_scans(jpeg + b"\xff\xda" * 500) == scans, "nor is what follows the image"


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
