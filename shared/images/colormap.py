"""The colours of heatmaps: a perceptually uniform ramp from dark violet through red to light yellow.

It is computed in OKLab (Björn Ottosson, 2020, https://bottosson.github.io/posts/oklab/), a space in which equal
distances look about equal. Lightness only rises, so the ramp can also be read in greyscale and by colour-blind people.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: The anchors of the ramp: lightness 0…1, chroma, hue in degrees (OKLCh). Between them it is linear.
_ANCHORS = np.array(
    [
        (0.18, 0.070, 285.0),
        (0.37, 0.160, 312.0),
        (0.55, 0.195, 370.0),
        (0.72, 0.165, 405.0),
        (0.84, 0.150, 440.0),
        (0.95, 0.120, 467.0),
    ]
)
_OKLAB_TO_CONE_ROOTS = np.array(
    [
        (1.0, 0.3963377774, 0.2158037573),
        (1.0, -0.1055613458, -0.0638541728),
        (1.0, -0.0894841775, -1.2914855480),
    ]
)
_CONES_TO_LINEAR_RGB = np.array(
    [
        (4.0767416621, -3.3077115913, 0.2309699292),
        (-1.2684380046, 2.6097574011, -0.3413193965),
        (-0.0041960863, -0.7034186147, 1.7076147010),
    ]
)


def ramp(colours: int) -> NDArray[np.uint8]:
    """Return (colours, 3) sRGB colours, from low to high, at equal distances in OKLab."""
    positions = np.linspace(0, len(_ANCHORS) - 1, 4096)
    lightness, chroma, degrees = (np.interp(positions, range(len(_ANCHORS)), column) for column in _ANCHORS.T)
    hue = np.radians(degrees)
    path = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    steps = np.linspace(0, length[-1], colours)
    return _srgb(np.stack([np.interp(steps, length, column) for column in path.T], axis=1))


def _srgb(oklab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert OKLab (n, 3) to 8-bit sRGB (n, 3); colours outside sRGB are clipped."""
    linear = np.clip((oklab @ _OKLAB_TO_CONE_ROOTS.T) ** 3 @ _CONES_TO_LINEAR_RGB.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rounded: NDArray[np.uint8] = np.round(encoded * 255).astype(np.uint8)
    return rounded
