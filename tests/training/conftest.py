"""Pictures, in memory and as an unpacked package."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from tests.support.tiny_training import smooth_picture
from worker.training.demonstration.photographs import Photograph, Pixels, Use


@pytest.fixture(scope="session")
def pictures() -> list[Pixels]:
    return [smooth_picture(seed) for seed in range(6)]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Photograph, ...]]:
    """A folder with an unpacked package of 20 PNG pictures, five for each use; every picture is a group of its own."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "blobs").mkdir()
    rows = []
    for seed in range(20):
        file = io.BytesIO()
        Image.fromarray(smooth_picture(seed)).save(file, "PNG")
        (root / "blobs" / f"{seed}.png").write_bytes(file.getvalue())
        digest = hashlib.sha256(file.getvalue()).hexdigest()
        length, use = len(file.getvalue()), get_args(Use)[seed % 4]
        row = Photograph("blobs", "1", f"{seed}.png", 0, length, digest, "CC0-1.0", "nobody", f"blob-{seed}", use)
        rows.append(row)
    return root, tuple(rows)
