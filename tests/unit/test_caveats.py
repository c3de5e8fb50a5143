"""What is said of an image with its verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from worker.caveats import caveats_of
from worker.imaging import Caveat, ImageFacts
from worker.model.policy import Evidence, Policy

PLAIN = ImageFacts(width=256, height=256, media_type="image/jpeg", file_format="JPEG", jpeg_quality=85)
EVIDENCE = Evidence(
    rule="youden",
    measured_fpr=0.01,
    fpr_interval=(0.001, 0.03),
    fpr_upper_bound=0.028,
    confidence=0.95,
    missed_fakes=0.1,
    reals=400,
    real_groups=300,
    fakes=300,
    fake_groups=300,
    data_sha256="1" * 64,
    media_types=("image/jpeg", "image/png"),
)
POLICY = Policy(
    name="strict",
    model="TEST-MODEL",
    weights_sha256="ab" * 32,
    precision="fp32",
    made_at=datetime(2026, 11, 22, 8, 0, tzinfo=UTC),
    threshold=0.9,
    evidence=EVIDENCE,
)


def test_of_an_image_like_those_that_the_model_knows_nothing_is_said():
    assert caveats_of(PLAIN, 256, POLICY) == caveats_of(PLAIN, 256, None) == ()


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
    (caveat,) = caveats_of(webp, 256, POLICY)
    assert "strict was made with image/jpeg, image/png, and this is image/webp" in caveat
    unknown = POLICY.model_copy(update={"evidence": EVIDENCE.model_copy(update={"media_types": ()})})
    assert caveats_of(webp, 256, unknown) == caveats_of(webp, 256, None) == ()
