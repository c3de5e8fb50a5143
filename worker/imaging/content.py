"""Whether an image has enough content to classify. The networks' output does not reveal that an image is blank.

The demonstration model classifies nearly all blank images as REAL at 98 to 99 %. Its feature maps of them vary as much
as those of photographs, because of the network's own border effects. So this module measures the image instead.

An image lacks content if it is too small, or if at least seven eighths of the network's input are one even tone or one
even gradient with no more than faint noise. The limits were chosen on three sets: 439 photographs, of which the
demonstration model was trained and tested on 418; 1,029 images made from every third of them (8 % and 12 % of the
brightness, a tenth of the contrast, 64 pixels, four colours, one bit, JPEG of quality 10); and 388 blank and nearly
blank images from 64 to 1,920 pixels, as PNG and JPEG (tones, noise, dithering, a dot, a line, a frame, a line of text,
a watermark, gradients).

- `relief`: photographs have at least 2.1 levels, and 0.5 at 8 % of their brightness. Tones with noise of up to three
  levels have at most 0.55, gradients 0.05, and gradients in JPEG, whose blocks turn them into steps, up to 0.6.
- `entropy`: photographs have at least 2.9 bits; tones with noise of up to three levels have at most 3.1.
- `distinct_share`: pages with one line of text have at most 0.07; checkerboards, whose cells are all alike, have 1.
- `side`: when a photograph is reduced to 24 pixels or fewer, its probability hardly depends on the original's (a
  correlation of at most 0.4; at 32 pixels 0.5, at 64 pixels 0.8).

By these limits, no photograph lacks content. Of the 1,029 images made from photographs two do, both from one photograph
of a small object on white. Of the blank images 333 do. Of 4,030 images of all kinds from Debian packages, only blank
ones and thin or small drawings on a plain ground do. Missed: noise of more than three levels, radial gradients, and
some gradients in JPEG. Found by mistake: a few lights or thin lines on an even ground, and photographs darkened to a
few levels.

The share of distinct colours was measured too, but does not separate the sets: large grey photographs have 0.0003,
gradients up to 0.02. This module imports only numpy and Pillow, for the sandbox's children.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.images.visualizations import Floats, analyzed_region

#: What an image needs; see the module's docstring.
MIN_SIDE = 32
MIN_RELIEF = 0.5
MIN_ENTROPY = 3.25
MIN_DISTINCT_SHARE = 1 / 8

#: The number of cells across and down; the plainest seven eighths of the cells are measured.
_CELLS = 32
_PLAINEST = 7 / 8
#: Pixels per side that are sampled: a few milliseconds for any image. They are not averaged: means would hide noise.
_SIDE = 256
#: Levels by which a distinct pixel differs: four times the strongest noise that counts as faint.
_DISTINCT = 12
#: JPEG rounds colour about twice as coarsely as brightness.
_COLOUR_WEIGHT = np.array([1, 0.5, 0.5], np.float32)


@dataclass(frozen=True)
class Content:
    """How much content there is in the middle of an image, the square that spans its shorter side.

    Levels are those of YCbCr, from 0 to 255, in brightness and colour. They are differences from the plane: the tone or
    even gradient that best fits the plainest seven eighths of the square.
    """

    side: int
    """Of the square, in pixels of the upright image."""
    entropy: float
    """Bits of the histogram of brightness minus the plane, in the plainest part; 0 if that part is even."""
    relief: float
    """Levels: the standard deviation of the means of that part's cells, minus the share that noise explains."""
    distinct_share: float
    """Share of all pixels that differ from the plane by more than 12 levels, in brightness or colour."""


def measure(image: Image.Image) -> Content:
    """Measure the middle of an upright RGB image: to a pixel, the region that any network sees."""
    side = min(image.size)
    region = analyzed_region(*image.size, side)
    across = min(_CELLS, max(side // 2, 1))
    sampled = across * (min(side, _SIDE) // across)
    box = (region.x, region.y, region.x + region.width, region.y + region.height)
    seen = image.resize((sampled, sampled), Image.Resampling.NEAREST, box).convert("YCbCr")
    channels = np.stack([np.asarray(channel, np.float32) for channel in seen.split()])
    kept, plane = _plainest(_cells(channels, across), across)
    constant, down, right = (each[:, None, None] for each in plane.T)
    place = _places(sampled)
    channels -= constant + down * place[:, None]
    channels -= right * place
    cells = _cells(channels, across)
    return Content(
        side=side,
        entropy=_entropy(cells[0].take(kept, axis=1)),
        relief=_relief(cells, kept),
        distinct_share=float((np.abs(channels).max(axis=0) > _DISTINCT).mean()),
    )


def lacks_content(content: Content) -> str | None:
    """Return why the image lacks content, as the end of a sentence about it; None if it has enough."""
    if content.side < MIN_SIDE:
        pixels = "1 pixel" if content.side == 1 else f"{content.side} pixels"
        return f"its shorter side has {pixels}, and {MIN_SIDE} are the fewest that verdicts can rest on"
    plain = content.relief < MIN_RELIEF and content.entropy < MIN_ENTROPY
    if plain and content.distinct_share < MIN_DISTINCT_SHARE:
        return (
            "at least seven eighths of what was analysed are one even tone or gradient, with an entropy of "
            f"{content.entropy:.1f} bits where photographs have 3 and more"
        )
    return None


def drawn_mean(mean: Floats, content: Content) -> Floats:
    """Return the feature map's mean (h, w) for heatmap and overlay: flat for an image that lacks content.

    There, the mean varies only by the network's own border effects, not by parts of the image.
    """
    return np.zeros_like(mean) if lacks_content(content) else mean


def _cells(channels: Floats, across: int) -> Floats:
    """Reshape (3, N, N) to (3, pixels of a cell, cells): numpy sums the rows, hence the cells, fastest."""
    size = channels.shape[1] // across
    split = channels.reshape(3, across, size, across, size).transpose(0, 2, 4, 1, 3)
    return split.reshape(3, size * size, across * across)


def _plainest(cells: Floats, across: int) -> tuple[NDArray[np.intp], Floats]:
    """Return the plainest seven eighths of the cells, and their best plane: (3, 3) coefficients of `_terms`.

    The plainest cells are those nearest to the plane that fits all cells. The second fit uses only these, so that a
    line of text does not tilt the plane of a page.
    """
    means = cells.mean(axis=1)
    terms = _terms(across).reshape(3, across * across)
    misfit = ((means - _fitted(means, terms) @ terms) ** 2).sum(axis=0) + cells.var(axis=1).sum(axis=0)
    (kept,) = np.nonzero(misfit <= np.quantile(misfit, _PLAINEST, method="lower"))
    return kept, _fitted(means[:, kept], terms[:, kept])


def _fitted(values: Floats, terms: Floats) -> Floats:
    """Return the coefficients (3, 3) with which the terms (3, n) best fit the values (3, n) of each channel."""
    coefficients: Floats = np.linalg.lstsq(terms.T, values.T)[0].T
    return coefficients


def _terms(count: int) -> Floats:
    """Return the terms of a plane over count × count parts of a square: 1, and the offsets down and right."""
    down, right = np.meshgrid(_places(count), _places(count), indexing="ij")
    return np.stack([np.ones_like(down), down, right])


def _places(count: int) -> Floats:
    """Return the middles of `count` equal parts of a line of length 1, relative to its middle."""
    return ((np.arange(count) + 0.5) / count - 0.5).astype(np.float32)


def _entropy(values: Floats) -> float:
    """Return the Shannon entropy in bits of the values, rounded to whole levels."""
    levels = np.rint(values).astype(np.int64).ravel()
    shares = np.bincount(levels - levels.min()) / levels.size
    shares = shares[shares > 0]
    return abs(float((shares * np.log2(shares)).sum()))


def _relief(cells: Floats, kept: NDArray[np.intp]) -> float:
    """Return the standard deviation of the means of cells, (3, pixels, cells), minus the part that noise explains."""
    pixels = cells.shape[1]
    noise = cells.var(axis=1, ddof=1)[:, kept].mean(axis=1) / pixels if pixels > 1 else 0
    variance = cells.mean(axis=1)[:, kept].var(axis=1) - noise
    return float((np.sqrt(np.maximum(variance, 0)) * _COLOUR_WEIGHT).max())
