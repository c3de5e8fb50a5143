"""What is said of an image with its verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.policies import STRICT
from worker.caveats import caveats_of
from worker.imaging import Caveat, ImageFacts

PLAIN = ImageFacts(width=256, height=256, media_type="image/jpeg", file_format="JPEG", jpeg_quality=85)


def test_of_an_image_like_those_that_the_model_knows_nothing_is_said():
    assert caveats_of(PLAIN, 256, STRICT) == caveats_of(PLAIN, 256, None) == ()


def test_what_decoding_left_out_is_said_first():
    cut = replace(PLAIN, width=300, caveats=(Caveat.CMYK,))
    assert caveats_of(cut, 256, None) == (
        Caveat.CMYK,
        "Only the middle 256 × 256 of 300 × 256 pixels was analysed.",
    )


@pytest.mark.parametrize(("side", "said"), [(256, False), (255, True), (40, True)])
def test_an_image_that_was_enlarged_is_called_so(side: int, said: bool):
    told = caveats_of(replace(PLAIN, width=side, height=side), 256, None)
    assert any(f"shorter side of {side} pixels was enlarged to the 256" in caveat for caveat in told) == said


@pytest.mark.parametrize(("quality", "said"), [(None, False), (50, False), (49, True), (5, True)])
def test_strong_compression_is_said_where_it_is_known(quality: int | None, said: bool):
    told = caveats_of(replace(PLAIN, jpeg_quality=quality), 256, None)
    assert any(f"JPEG of quality {quality} or so" in caveat for caveat in told) == said


def test_a_kind_of_file_that_the_policy_was_not_made_with_is_said():
    webp = replace(PLAIN, media_type="image/webp", file_format="WEBP", jpeg_quality=None)
    (caveat,) = caveats_of(webp, 256, STRICT)
    assert "strict was made with image/jpeg, image/png, and this is image/webp" in caveat
    unknown = STRICT.model_copy(update={"evidence": STRICT.evidence.model_copy(update={"media_types": ()})})
    assert caveats_of(webp, 256, unknown) == caveats_of(webp, 256, None) == ()
