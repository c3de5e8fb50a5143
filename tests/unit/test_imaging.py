"""Decoding: what each kind of file becomes, and what each broken one is called."""

from __future__ import annotations

import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import ErrorCode, JobError
from tests.support.bad_images import ACCEPTED, REFUSED, OddImage, photograph, png, saved
from worker.imaging import decoding
from worker.imaging.decoding import FORMATS, Caveat, ImageLimits, decode, preprocess


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, ImageLimits()).image)


@pytest.mark.parametrize("odd", REFUSED, ids=lambda odd: odd.name)
def test_a_bad_file_has_its_code(odd: OddImage):
    with pytest.raises(JobError) as failed:
        decode(odd.data, ImageLimits())
    assert failed.value.code == odd.code


@pytest.mark.parametrize("odd", ACCEPTED, ids=lambda odd: odd.name)
def test_an_odd_file_is_read_with_its_caveats(odd: OddImage):
    image = decode(odd.data, ImageLimits())
    facts = image.facts
    assert (facts.media_type, (facts.width, facts.height), facts.caveats) == (odd.media_type, odd.size, odd.caveats)
    assert image.image.size == odd.size
    assert facts.file_format in FORMATS[odd.media_type]
    assert image.image.mode == "RGB"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_file_cut_anywhere_fails_or_decodes(file_format: str):
    whole = saved(photograph(), file_format)
    codes = {ErrorCode.UNSUPPORTED_MEDIA_TYPE, ErrorCode.CORRUPT_IMAGE}
    for length in range(0, len(whole) * 9 // 10, max(len(whole) // 40, 1)):
        with pytest.raises(JobError) as failed:
            decode(whole[:length], ImageLimits())
        assert failed.value.code in codes


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_flipped_bytes_give_pixels_or_a_job_error(file_format: str):
    whole = saved(photograph(), file_format)
    dice = np.random.default_rng(11)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in dice.integers(0, len(whole), 8):
            damaged[at] = dice.integers(256)
        with suppress(JobError):
            assert decode(bytes(damaged), ImageLimits(max_pixels=1_000_000)).image.mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_first(orientation: int, file_format: str):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    file = saved(Image.fromarray(np.ascontiguousarray(stored)).convert("RGB"), file_format, exif=exif, **options)
    np.testing.assert_array_equal(decoded(file)[..., 0], upright)


def test_unreadable_exif_is_said_and_the_image_read():
    image = decode(saved(photograph(), "PNG", exif=b"Exif\0\0this is no TIFF header"), ImageLimits())
    assert image.facts.caveats == (Caveat.NO_ORIENTATION,)


def test_sixteen_bits_are_scaled_not_clipped():
    grey = next(odd for odd in ACCEPTED if odd.name == "16-bit grey")
    levels = np.linspace(0, 0xFFFF, 64 * 48).astype(np.uint16).reshape(48, 64)
    np.testing.assert_array_equal(decoded(grey.data)[..., 1], levels >> 8)
    colour = next(odd for odd in ACCEPTED if odd.name == "16-bit colour")
    colours = np.linspace(0, 0xFFFF, 64 * 48 * 3).astype(np.uint16).reshape(48, 64, 3)
    np.testing.assert_array_equal(decoded(colour.data), colours >> 8)


def test_alpha_is_dropped_unblended():
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, 3
    assert (decoded(saved(Image.fromarray(rgba), "PNG"))[..., 0] == 200).all()


def test_the_first_frame_is_the_one_analysed():
    gif = next(odd for odd in ACCEPTED if odd.name == "animated gif")
    difference = decoded(gif.data).astype(int) - np.asarray(photograph()).astype(int)
    assert np.abs(difference).mean() < 20


def test_a_path_is_read_by_content_whatever_its_name(tmp_path: Path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(photograph(), "PNG"))
    assert decode(path, ImageLimits()).facts.media_type == "image/png"


def test_a_large_file_is_not_read_whole(tmp_path: Path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(JobError) as refused:
            decode(path, ImageLimits(max_bytes=1_000_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.code == ErrorCode.IMAGE_TOO_LARGE
    assert peak < 5_000_000


def test_no_pixel_is_decoded_of_an_image_too_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    for name in ("tiff of 10,000 x 10,000", "48 million pixels"):
        with pytest.raises(JobError):
            decode(next(odd.data for odd in REFUSED if odd.name == name), ImageLimits())


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (MemoryError(), ErrorCode.OUT_OF_MEMORY),
        (ZeroDivisionError(), ErrorCode.CORRUPT_IMAGE),
        (NotImplementedError(), ErrorCode.CORRUPT_IMAGE),
        (IndexError(), ErrorCode.CORRUPT_IMAGE),
        (Image.DecompressionBombError(), ErrorCode.DECOMPRESSION_BOMB),
    ],
)
def test_whatever_pillow_raises_is_a_job_error(raised: Exception, code: ErrorCode, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(JobError) as failed:
        decode(png(64, 48), ImageLimits())
    assert failed.value.code == code
    assert failed.value.__cause__ is raised


def test_the_callers_warning_filters_do_not_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken_exif = saved(photograph(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
        assert decode(broken_exif, ImageLimits()).image.size == (64, 48)


@pytest.mark.parametrize("size", [(1, 1), (2, 64), (5, 3)])
def test_preprocess_enlarges_small_images(size: tuple[int, int]):
    x = preprocess(Image.new("RGB", size, (255, 0, 51)), 64)
    assert x.shape == (3, 64, 64)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.broadcast_to(np.array([1, -1, -0.6])[:, None, None], x.shape), atol=1e-6)


def test_preprocess_does_not_depend_on_the_bands(monkeypatch: pytest.MonkeyPatch):
    image = photograph(97, 131)
    whole = preprocess(image, 32)
    monkeypatch.setattr(decoding, "_BAND_PIXELS", 700)
    np.testing.assert_array_equal(preprocess(image, 32), whole)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_read():
    jpeg = saved(Image.new("RGB", (640, 480), "grey"), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")

    def with_scans(more: int) -> bytes:
        return jpeg[:-2] + jpeg[last:-2] * more + b"\xff\xd9"

    assert decode(jpeg, ImageLimits()).image.size == (640, 480)
    with pytest.raises(JobError, match="scans") as failed:
        decode(with_scans(7000), ImageLimits())
    assert failed.value.code == ErrorCode.DECOMPRESSION_BOMB
