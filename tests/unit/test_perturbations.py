"""The small changes after which a verdict should stand."""

from __future__ import annotations

import numpy as np

from shared.domain import PROBE_PASSES
from tests.support.bad_images import photograph
from worker.imaging.decoding import preprocess
from worker.imaging.perturbations import PERTURBATIONS


def test_a_probe_costs_the_passes_that_are_stated():
    assert 1 + len(PERTURBATIONS) == PROBE_PASSES


def test_each_changes_the_picture_a_little_and_keeps_what_it_shows():
    image = photograph(90, 60)
    x = preprocess(image, 32)
    saved_well, saved_badly, smaller, flipped = (change(image) for change in PERTURBATIONS)
    assert saved_well.size == saved_badly.size == flipped.size == (90, 60)
    assert smaller.size == (68, 45)
    lossy = [np.abs(preprocess(changed, 32) - x).mean() for changed in (saved_well, saved_badly, smaller)]
    assert 0 < lossy[0] < lossy[1] < 0.1
    assert 0 < lossy[2] < 0.1
    np.testing.assert_array_equal(np.asarray(flipped), np.asarray(image)[:, ::-1])
    assert np.asarray(image).tobytes() == np.asarray(photograph(90, 60)).tobytes()  # the original is still to be drawn


def test_the_smallest_image_can_be_changed_too():
    for change in PERTURBATIONS:
        assert min(change(photograph(1, 1)).size) == 1
