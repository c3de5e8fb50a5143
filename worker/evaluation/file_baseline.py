"""What a file reveals without its pixels: the control that shows whether a data set gives its labels away.

Real images tend to reach a data set as JPEG and generated images as PNG. A detector that is tested on such data may
have learned file formats; where this control finds the fakes, its figures are worth nothing.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, JpegImagePlugin

from worker.datasets.labelled_image import LabelledImage
from worker.metrics.logistic import fit_logistic, predict_logistic
from worker.metrics.ranking import Floats, Labels, missing_classes
from worker.metrics.scores import Names

FOLDS = 5
_RIDGE = 1.0
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_SUBSAMPLINGS = 3  # of JPEG: 4:4:4, 4:2:2, 4:2:0


def file_features(data: bytes) -> list[float]:
    """Return format, size, compression and quantisation of an image file; its pixels are not decoded."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        kind = "JPEG" if image.format == "MPO" else image.format
        tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
        chroma = JpegImagePlugin.get_sampling(image) if kind == "JPEG" else -1
        described = float("exif" in image.info or "icc_profile" in image.info)  # not parsed: it may be damaged
        mode = image.mode
    return [
        *(float(kind == name) for name in _FORMATS),
        *(float(mode == name) for name in ("L", "P", "RGBA", "CMYK")),
        np.log(width),
        np.log(height),
        np.log(width / height),
        float(width == height),
        float(width % 8 == 0 and height % 8 == 0),
        np.log(len(data)),
        np.log(len(data) / (width * height)),
        *(float(chroma == name) for name in range(_SUBSAMPLINGS)),
        *_coarseness(tables),
        described,
    ]


def probabilities_by_file(images: Sequence[LabelledImage], seed: int = 0) -> Floats:
    """Return each image's probability of being fake, (N,), by a regression that saw neither it nor its group.

    Raises:
        ChangedImageError: a file has changed since its digest was computed.
        OSError: a file cannot be read.
    """
    features = np.array([file_features(image.read()) for image in images], dtype=np.float64)
    fake = np.array([image.fake for image in images], dtype=np.bool_)
    groups = np.array([image.group for image in images], dtype=np.str_)
    return cross_validated(features, fake, groups, seed)


def cross_validated(features: Floats, fake: Labels, groups: Names, seed: int) -> Floats:
    """Return the probability of each row of `features` (N, D), (N,), from regressions on the other folds' groups."""
    fold = fold_of(groups, FOLDS, seed)
    probabilities = np.full(len(fake), fake.mean())
    for number in range(FOLDS):
        held_out = fold == number
        if held_out.any() and not missing_classes(fake[~held_out]):
            probabilities[held_out] = _predicted(features[~held_out], fake[~held_out], features[held_out])
    return probabilities


def fold_of(groups: Names, folds: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Assign groups to folds of nearly equal number, at random; return each image's fold, (N,)."""
    names, group_of = np.unique(groups, return_inverse=True)
    assigned = np.random.default_rng(seed).permutation(len(names)) % folds
    found: np.ndarray[tuple[int], np.dtype[np.intp]] = assigned[group_of]
    return found


def _predicted(known: Floats, fake: Labels, unknown: Floats) -> Floats:
    """Fit on standardised features; both classes weigh the same."""
    centre, spread = known.mean(axis=0), known.std(axis=0)
    spread[spread == 0] = 1  # a feature that all share says nothing

    def prepared(features: Floats) -> Floats:
        return np.column_stack([(features - centre) / spread, np.ones(len(features))])

    weights = np.where(fake, 0.5 / fake.mean(), 0.5 / (1 - fake.mean()))
    return predict_logistic(
        prepared(unknown), fit_logistic(prepared(known), fake.astype(np.float64), weights, ridge=_RIDGE)
    )


def _coarseness(tables: dict[int, list[int]]) -> list[float]:
    """Mean logarithm of the first two quantisation tables, luma and chroma, and the step of each one's mean; or 0."""
    found = []
    for number in (0, 1):
        table = tables.get(number)
        if table is None:
            found += [0.0, 0.0]
            continue
        logarithms = np.log(np.maximum(table, 1))  # a step of 0 is not allowed, and is decoded all the same
        found += [float(logarithms.mean()), float(logarithms[0])]
    return found
