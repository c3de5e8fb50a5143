"""Jobs through a real analysis worker."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image

from tests.processes.worker_processes import Workplace
from tests.support.bad_images import photograph, saved


def test_job_ends_with_a_verdict_and_three_pictures(place: Workplace):
    worker = place.start_analysis()
    job = place.wait_ended(place.submit(saved(photograph(96, 48), "JPEG", quality=30)))

    assert (job.state, job.attempt, job.deaths) == ("succeeded", 1, 0), worker.said()
    result = job.result
    assert result is not None
    assert result.prediction in {"REAL", "FAKE"}
    assert (result.policy, result.threshold, result.raw_probability_fake) == (None, 0.5, result.probability_fake)
    assert (result.width, result.height) == (96, 48)
    assert result.analyzed_region == {"x": 24, "y": 0, "width": 48, "height": 48}
    assert (result.file_format, result.jpeg_quality) == ("JPEG", 30)
    no_policy, region, compressed = result.caveats
    assert no_policy.startswith("No policy was chosen: the threshold 0.5 is the model's own.")
    assert "JPEG of quality 30" in compressed
    assert region == "Only the middle 48 × 48 of 96 × 48 pixels was analysed."
    assert set(result.timings) == {"fetching", "decoding", "diffusing", "classifying", "rendering", "storing"}
    assert 0 < result.processing_time < 30
    assert (result.model_name, result.demonstration) == ("TEST-MODEL", True)
    mean = np.frombuffer(result.feature_mean, "<f4").reshape(result.feature_height, result.feature_width)
    assert np.isfinite(mean).all()
    sizes = {name: stored_size(place, artifact) for name, artifact in result.artifacts.items()}
    assert sizes == {"dire_map": (32, 32), "heatmap": (96, 48), "overlay": (96, 48), "preview": (96, 48)}


def stored_size(place: Workplace, artifact: dict[str, Any]) -> tuple[int, int]:
    data = place.store.get(artifact["key"])
    assert hashlib.sha256(data).hexdigest() == artifact["sha256"]
    assert len(data) == artifact["bytes"]
    return Image.open(io.BytesIO(data)).size
