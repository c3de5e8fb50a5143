"""The estimate of a JPEG's quality, against files that libjpeg wrote."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tests.support.bad_images import photograph, saved
from worker.imaging.decoding import ImageLimits, decode
from worker.imaging.jpeg_quality import estimate_quality


def estimated(data: bytes) -> int | None:
    return decode(data, ImageLimits()).facts.jpeg_quality


@pytest.mark.parametrize("quality", range(1, 101))
def test_what_libjpeg_wrote_is_known_exactly(quality: int):
    assert estimated(saved(photograph(), "JPEG", quality=quality)) == quality


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "L"},
        {"mode": "CMYK"},
        {"subsampling": 0},
        {"progressive": True},
    ],
    ids=str,
)
def test_it_does_not_depend_on_what_else_the_file_is(options: dict[str, object]):
    mode = str(options.pop("mode", "RGB"))
    assert estimated(saved(photograph().convert(mode), "JPEG", quality=83, **options)) == 83


def test_other_tables_and_other_formats_have_none():
    assert estimated(saved(photograph(), "JPEG", quality="web_high")) is None  # Pillow's copy of a program's tables
    tables = Image.open(io.BytesIO(saved(photograph(), "JPEG", quality=80))).quantization  # type: ignore[attr-defined]
    assert estimate_quality(tables) == 80
    for number in tables:  # one step away
        assert estimate_quality({**tables, number: [*tables[number][:-1], tables[number][-1] + 1]}) is None
    assert estimate_quality({0: tables[1], 1: tables[0]}) is None
    assert estimate_quality({0: tables[0], 1: [2] * 64}) is None
    for file_format in ("PNG", "WEBP", "AVIF", "TIFF"):
        assert estimated(saved(photograph(), file_format)) is None


@pytest.mark.parametrize("tables", [{}, {1: [1] * 64}, {0: []}, {0: [0] * 64}, {0: [1] * 63}])
def test_tables_that_make_no_sense_have_none(tables: dict[int, list[int]]):
    assert estimate_quality(tables) is None


def test_the_decoded_format_is_told_where_the_media_type_has_several():
    frames = [photograph(), photograph()]
    mpo = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    facts = decode(mpo, ImageLimits()).facts
    assert (facts.media_type, facts.file_format) == ("image/jpeg", "MPO")
    assert decode(saved(photograph(), "JPEG"), ImageLimits()).facts.file_format == "JPEG"
