"""What is said of an image with its verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from shared.domain import Region
from shared.images.visualizations import DRAWN_FLAT, analyzed_region
from tests.support.policies import STRICT
from worker.imaging.content import Content, measure
from worker.imaging.decoding import Caveat, ImageFacts
from worker.jobs.caveats import caveats_of

MUCH = Content(side=256, entropy=6.5, relief=40.0, distinct_share=0.8)
PLAIN = ImageFacts(256, 256, media_type="image/jpeg", file_format="JPEG", jpeg_quality=85, content=MUCH)
MEAN = np.arange(4, dtype=np.float32).reshape(2, 2)


def test_of_an_image_like_those_that_the_model_knows_nothing_is_said():
    assert caveats_of(PLAIN, 256, STRICT, MEAN) == caveats_of(PLAIN, 256, None, MEAN) == ()


def test_what_decoding_left_out_is_said_first():
    cut = replace(PLAIN, width=300, caveats=(Caveat.CMYK,))
    assert caveats_of(cut, 256, None, MEAN) == (
        Caveat.CMYK,
        "Only the middle 256 × 256 of 300 × 256 pixels was analysed.",
    )


@pytest.mark.parametrize(("side", "said"), [(256, False), (255, True), (40, True)])
def test_an_image_that_was_enlarged_is_called_so(side: int, said: bool):
    told = caveats_of(replace(PLAIN, width=side, height=side), 256, None, MEAN)
    assert any(f"shorter side of {side} pixels was enlarged to the 256" in caveat for caveat in told) == said


@pytest.mark.parametrize(("quality", "said"), [(None, False), (50, False), (49, True), (5, True)])
def test_strong_compression_is_said_where_it_is_known(quality: int | None, said: bool):
    told = caveats_of(replace(PLAIN, jpeg_quality=quality), 256, None, MEAN)
    assert any(f"JPEG of quality {quality} or so" in caveat for caveat in told) == said


def test_a_kind_of_file_that_the_policy_was_not_made_with_is_said():
    webp = replace(PLAIN, media_type="image/webp", file_format="WEBP", jpeg_quality=None)
    (caveat,) = caveats_of(webp, 256, STRICT, MEAN)
    assert "strict was made with image/jpeg, image/png, and this is image/webp" in caveat
    unknown = STRICT.model_copy(update={"evidence": STRICT.evidence.model_copy(update={"media_types": ()})})
    assert caveats_of(webp, 256, unknown, MEAN) == caveats_of(webp, 256, None, MEAN) == ()


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((300, 256), "Only the middle 256 × 256 of 300 × 256 pixels was analysed."),
        ((256, 900), "Only the middle 256 × 256 of 256 × 900 pixels was analysed."),
        ((431, 427), "The middle 427 × 427 of 431 × 427 pixels was analysed, nearly the whole image."),
        ((4000, 3900), "The middle 3908 × 3900 of 4000 × 3900 pixels was analysed, nearly the whole image."),
    ],
)
def test_the_part_that_was_analysed_is_called_what_it_is(size: tuple[int, int], said: str):
    image = replace(PLAIN, width=size[0], height=size[1])
    assert caveats_of(image, 256, None, MEAN) == (said,)


def test_an_image_that_was_seen_as_a_whole_is_not_called_cut():
    image = replace(PLAIN, width=431, height=427)
    assert analyzed_region(431, 427, 64) == Region(0, 0, 431, 427)
    assert caveats_of(image, 64, None, MEAN) == ()


def test_that_there_is_nothing_to_judge_by_is_said_first_with_what_was_measured():
    blank = Content(side=256, entropy=0.4, relief=0.1, distinct_share=0.01)
    said, flat, frame = caveats_of(replace(PLAIN, content=blank, caveats=(Caveat.FIRST_FRAME,)), 256, STRICT, MEAN)
    assert said.startswith("The image has almost no content (at least seven eighths of what was analysed are one even")
    assert "0.4 bits" in said
    assert said.endswith("there is nothing to judge by.")
    assert flat == DRAWN_FLAT
    assert frame == Caveat.FIRST_FRAME
    point = replace(PLAIN, width=1, height=1, content=measure(Image.new("RGB", (1, 1))))
    tiny, _, enlarged = caveats_of(point, 256, None, MEAN)
    assert "(its shorter side has 1 pixel, and 32 are the fewest that verdicts can rest on)" in tiny
    assert "The shorter side of 1 pixel was enlarged" in enlarged


@pytest.mark.parametrize("level", [0.0, 0.2, -3.0])
def test_a_heatmap_without_contrast_is_said(level: float):
    assert caveats_of(PLAIN, 256, None, np.full((8, 8), level, np.float32)) == (DRAWN_FLAT,)
