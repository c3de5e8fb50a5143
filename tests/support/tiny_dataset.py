"""A data set that a small network can learn in seconds: smooth pictures, and fakes that have fine stripes.

Their files are not compressed: stripes compress worse, so that the sizes of files would tell what is fake.

`python -m tests.support.tiny_dataset FOLDER` writes a larger one and a recipe, to try the commands of docs/training.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.tiny_training import smooth_picture

RECIPE = """
[augmentation]
crop_probability = 0.2
[pairs]
variants = 2
precision = "fp32"
[student]
backbone = "mobilenet_v3_small"
input_size = 96  # a heatmap of 3 x 3
[teacher]
weight = 0
[training]
epochs = 3
batch_size = 8
learning_rate = 2e-3
warmup_steps = 2
checkpoint_seconds = 0
"""


def write_dataset(folder: Path, each: int = 12) -> Path:
    """Write a manifest of so many photographs and as many fakes made from them; a quarter is for validation."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,generator,group,split"]
    for number in range(each):
        picture = smooth_picture(number)
        striped = picture.copy()
        striped[:, ::2] = np.clip(striped[:, ::2].astype(int) + 60, 0, 255)
        split = "validation" if number % 4 == 0 else "test" if number % 4 == 1 else "train"
        for label, pixels in (("real", picture), ("fake", striped)):
            Image.fromarray(pixels).save(folder / f"{label}-{number}.png", compress_level=0)
            generator = "stripes" if label == "fake" else ""
            lines.append(f"{label}-{number}.png,{label},{generator},photograph-{number},{split}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder / "data.csv"


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write_dataset(place, each=200)
    (place / "recipe.toml").write_text(RECIPE.lstrip())
