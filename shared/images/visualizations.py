"""Draws the pictures of a result: DIRE map, heatmap and overlay as PNG files, the preview as a JPEG file.

Preprocessing resizes an image so that its shorter side is the network's input size; the network sees the square in the
middle. `heatmap_scores` follows the published formula, which stretches the feature map over the whole image. The
pictures show it only on the part that the network saw; the rest is grey in the heatmap and dimmed in the overlay.
Everything that has the size of the original image is computed in bands of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.domain import PREVIEW, Region
from shared.images.colormap import ramp
from shared.images.png import write_png

#: The caveat of a result whose heatmap and overlay are drawn in one colour because the feature mean has no contrast.
DRAWN_FLAT = "Heatmap and overlay are drawn flat: there is nothing that they could show."

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

#: The longest side of a preview, in pixels.
PREVIEW_SIDE = 2048
#: Of the JPEG file: good enough to moderate by; half the bytes of the quality 95.
_PREVIEW_QUALITY = 85
#: The last entry of the palette: the colour outside the analysed region.
_OUTSIDE = 255
_PALETTE: Bytes = np.concatenate([ramp(_OUTSIDE), np.full((1, 3), 72, np.uint8)])
#: In an overlay: the share of the image's brightness under the colours, and outside the region.
_IMAGE_SHARE, _OUTSIDE_SHARE = 0.55, 0.35
_BYTE = np.arange(256)
_UNDER_COLOURS = (_BYTE * _IMAGE_SHARE).astype(np.uint8)
_DIMMED = (_BYTE * _OUTSIDE_SHARE).astype(np.uint8)
_TINT: Bytes = (_PALETTE * (1 - _IMAGE_SHARE)).astype(np.uint8)
#: Values have no contrast if their range is at most this share of their largest magnitude. Measured with the
#: demonstration model: the feature means of one image differ by 6e-6 between batches, but vary by 0.47 or more within
#: an image, even a blank one.
_FLAT_SHARE = 1e-3
#: The number of pixels in a band: a few megabytes as float32, large enough for numpy to be fast.
_BAND_PIXELS = 1 << 18


def resized(width: int, height: int, size: int) -> tuple[int, int]:
    """Return (width, height) after resizing the shorter side to `size`; rounds as torchvision's Resize does."""
    short, long = sorted((width, height))
    longer = int(size * long / short)
    return (size, longer) if width <= height else (longer, size)


def crop_offset(length: int, size: int) -> int:
    """Return where a centred crop of `size` starts on a side of `length`; rounds as torchvision's CenterCrop does."""
    return round((length - size) / 2)


def analyzed_region(width: int, height: int, size: int) -> Region:
    """Return the part of a width × height image that a network of size × size sees, to the nearest pixel."""
    columns, rows = resized(width, height, size)
    x, across = _span(width, columns, size)
    y, down = _span(height, rows, size)
    return Region(x, y, across, down)


def _span(length: int, scaled: int, size: int) -> tuple[int, int]:
    """Return start and extent, in original pixels, of the crop on a side that was scaled from `length` to `scaled`."""
    pixel = length / scaled
    start = crop_offset(scaled, size)
    first = min(round(start * pixel), length - 1)
    return first, max(min(round((start + size) * pixel), length) - first, 1)


def heatmap_scores(mean: Floats, width: int, height: int) -> Floats:
    """Return the heatmap of an image, (height, width) float32 in [0, 1]: high where the student's features are high.

    `mean` (h, w) is the feature map's mean over channels. It is resized bilinearly (half-pixel centres, clamped edges,
    no antialiasing, as `cv2.resize` and `interpolate(align_corners=False)` do), then normalised to (v − min) /
    (max − min + 1e-6). Raises ValueError for a mean that is not finite.
    """
    return np.concatenate(list(heatmap_rows(mean, width, height)))


def heatmap_rows(mean: Floats, width: int, height: int) -> Iterator[Floats]:
    """Yield `heatmap_scores` in bands of whole rows, (rows, width) each, from the top down."""
    if not np.isfinite(mean).all():
        raise ValueError("the feature mean is not finite")
    raised = (
        mean.astype(np.float32) - mean.min()
    )  # keeps rounding errors small relative to max − min, even for a flat mean
    down, across = _bilinear(mean.shape[0], height), _bilinear(mean.shape[1], width)
    # Within a cell of the mean, the surface is monotone along rows and columns, so its extremes are among each cell's
    # outermost samples.
    corners = down[_outermost(down)] @ raised @ across[_outermost(across)].T
    low, high = corners.min(), corners.max()
    wide = raised @ across.T
    for top in range(0, height, _rows_of_band(width)):
        band = down[top : top + _rows_of_band(width)] @ wide
        band -= low
        band /= high - low + np.float32(1e-6)
        yield np.clip(band, 0, 1, out=band)


def has_contrast(values: Floats, scale: float | None = None) -> bool:
    """Whether values differ by more than float noise, relative to their largest magnitude or to `scale`."""
    if scale is None:
        scale = float(np.abs(values).max())
    flat = values.max() - values.min() <= _FLAT_SHARE * scale
    return not flat  # NaN does not count as flat: `heatmap_rows` refuses it


def _bilinear(source: int, target: int) -> Floats:
    """Return the (target, source) matrix that resizes a line of samples; each row has two weights."""
    position = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    before = np.minimum(position.astype(int), max(source - 2, 0))
    weight = position - before
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, before] = 1 - weight
    matrix[rows, np.minimum(before + 1, source - 1)] += weight
    return matrix


def _outermost(matrix: Floats) -> NDArray[np.bool_]:
    """Return which rows are the first or last that lie between the same two samples."""
    cell = np.argmax(matrix > 0, axis=1)
    change: NDArray[np.bool_] = np.diff(cell) != 0
    outermost: NDArray[np.bool_] = np.append(True, change) | np.append(change, True)
    return outermost


def _rows_of_band(width: int) -> int:
    return max(_BAND_PIXELS // width, 1)


def draw_pictures(wanted: Iterable[str], image: Image.Image, eps: Floats, mean: Floats) -> dict[str, bytes]:
    """Return the files of the wanted pictures, by their names in `shared.domain.PICTURES`.

    `image` is upright and RGB, `eps` (3, S, S) is the first-step noise, `mean` (h, w) is the feature map's mean.
    """
    region = analyzed_region(image.width, image.height, eps.shape[-1])
    draw: Mapping[str, Callable[[], bytes]] = {
        "dire_map": lambda: dire_map_png(eps),
        "heatmap": lambda: heatmap_png(mean, image.width, image.height, region),
        "overlay": lambda: overlay_png(image, mean, region),
        PREVIEW: lambda: preview_jpeg(image),
    }
    return {name: draw[name]() for name in wanted}


def dire_map_png(eps: Floats) -> bytes:
    """Return a PNG (S, S) of the first-step noise `eps` (3, S, S), scaled by its extremes over all three channels.

    The picture is black if the noise has no contrast.
    """
    if not has_contrast(eps, scale=1):  # the standard deviation of noise
        eps = np.zeros_like(eps)
    low, high = eps.min(), eps.max()
    scaled = (eps - low) / (high - low + np.float32(1e-6)) * 255
    pixels = np.ascontiguousarray(scaled.astype(np.uint8).transpose(1, 2, 0))
    return write_png(pixels.shape[1], pixels.shape[0], [pixels])


def heatmap_png(mean: Floats, width: int, height: int, region: Region) -> bytes:
    """Return a PNG (height, width): the scores of `mean` (h, w) as colours on `region`, grey around it."""
    bands = _picture_bands(mean, width, height, region, _plain)
    return write_png(width, height, bands, _PALETTE)


def overlay_png(image: Image.Image, mean: Floats, region: Region) -> bytes:
    """Return a PNG of the RGB `image` with the colours of `heatmap_png` over `region`, dimmed around it."""
    bands = _picture_bands(mean, image.width, image.height, region, partial(_overlaid, image, region))
    return write_png(image.width, image.height, bands)


def preview_jpeg(image: Image.Image) -> bytes:
    """Return a JPEG of the RGB `image`, at most `PREVIEW_SIDE` pixels wide and high, without any of its metadata.

    A larger image is reduced by a whole factor, each pixel being the mean of a square. Resampling a photograph of 12
    megapixels to 2,048 pixels would take ten times as long (180 ms instead of 18 ms), more than the networks take.
    """
    preview = image.reduce(math.ceil(max(image.size) / PREVIEW_SIDE))
    preview.info.clear()  # Pillow would copy the upload's comment and more into the file
    file = BytesIO()
    preview.save(file, "JPEG", quality=_PREVIEW_QUALITY)
    return file.getvalue()


def _picture_bands(
    mean: Floats, width: int, height: int, region: Region, paint: Callable[[int, Bytes], Bytes]
) -> Iterator[Bytes]:
    """Yield `paint(top, levels)` for each band. `levels` (rows, width) index the palette: 0 if `mean` is flat."""
    if not has_contrast(mean):
        mean = np.zeros_like(mean)
    levels = np.full((_rows_of_band(width), width), _OUTSIDE, np.uint8)
    for top in range(0, region.y, len(levels)):
        yield paint(top, levels[: region.y - top])
    top = region.y
    for scores in heatmap_rows(mean, region.width, region.height):
        for start in range(0, len(scores), len(levels)):
            part = scores[start : start + len(levels)]
            band = levels[: len(part)]
            band[:, region.x : region.x + region.width] = part * (_OUTSIDE - 1) + 0.5
            yield paint(top, band)
            top += len(part)
    levels[:] = _OUTSIDE
    for below in range(top, height, len(levels)):
        yield paint(below, levels[: height - below])


def _plain(_top: int, levels: Bytes) -> Bytes:
    return levels


def _overlaid(image: Image.Image, region: Region, top: int, levels: Bytes) -> Bytes:
    """Return the image's rows from `top` on, blended with the colours of `levels`, (rows, width, 3)."""
    pixels = np.asarray(image.crop((0, top, image.width, top + len(levels))))
    beside = levels[0, region.x] == _OUTSIDE  # above or below the region
    left, right = (image.width, image.width) if beside else (region.x, region.x + region.width)
    painted = np.empty_like(pixels)
    painted[:, :left] = _looked_up(_DIMMED, pixels[:, :left])
    painted[:, right:] = _looked_up(_DIMMED, pixels[:, right:])
    under = _looked_up(_UNDER_COLOURS, pixels[:, left:right])
    np.add(under, _looked_up(_TINT, levels[:, left:right]), out=painted[:, left:right])
    return painted


def _looked_up(table: Bytes, indices: Bytes) -> Bytes:
    """Return `table[indices]`. `mode="clip"` skips the bounds check, which makes this four times faster; bytes fit."""
    return table.take(indices, axis=0, mode="clip")
