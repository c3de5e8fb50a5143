"""Whether a file's colours are sRGB. Like the published detector, the network reads all samples as if they were."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageCms

from worker.imaging.avif_boxes import AvifImage
from worker.imaging.png_chunks import Chunk

#: Code points of ITU-T H.273 (primaries, transfer function) that mean sRGB, or that nothing is said.
_SRGB_CODES = ({1, 2}, {2, 13})
_SRGB_GAMMA = 1 / 2.2
_SRGB_CHROMATICITIES = np.array([(0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
#: By how much a gamma (as a share) and a chromaticity may differ.
_GAMMA_TOLERANCE, _CHROMATICITY_TOLERANCE = 0.05, 0.01
#: Levels of 255 by which a profile may move a colour.
_PROFILE_TOLERANCE = 4
_BMP_CALIBRATED, _BMP_EMBEDDED, _BMP_LINKED = 0, b"DEBM", b"KNIL"


#: From the second on they lie where a gamma of 2.2 and the curve of sRGB hardly differ.
_LEVELS = np.arange(0, 256, 51, dtype=np.uint8)
_GREYS = Image.fromarray(_LEVELS[None])
_SWATCHES = Image.fromarray(np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), axis=-1).reshape(6, 36, 3))
_SRGB = ImageCms.createProfile("sRGB")


def profile_is_srgb(profile: bytes) -> bool:
    """Tell whether an ICC profile is sRGB's, by converting some colours to sRGB: they must not change.

    A profile that cannot be read does not count as sRGB's.
    """
    swatches = _GREYS if profile[16:20] == b"GRAY" else _SWATCHES
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        # Optimising a transform takes longer than converting these few colours.
        flags = ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(source, _SRGB, swatches.mode, "RGB", intent, flags)
        shown = ImageCms.applyTransform(swatches, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False
    difference = np.asarray(shown, np.int16) - np.asarray(swatches.convert("RGB"), np.int16)
    return int(np.abs(difference).max()) <= _PROFILE_TOLERANCE


def png_is_srgb(chunks: dict[bytes, Chunk], profile: bytes | None) -> bool:
    """Tell whether a PNG's colours are sRGB. The first of these chunks decides: cICP, iCCP, sRGB, gAMA with cHRM."""
    if b"cICP" in chunks:
        return _codes_are_srgb(*chunks[b"cICP"].body[:2])
    if b"iCCP" in chunks:
        return profile is not None and profile_is_srgb(profile)
    if b"sRGB" in chunks:
        return True
    gamma, points = (bytes(chunks[kind].body) if kind in chunks else None for kind in (b"gAMA", b"cHRM"))
    if gamma and not _gamma_is_srgb(int.from_bytes(gamma, "big") / 100_000):
        return False
    return not points or len(points) < 32 or _chromaticities_are_srgb(np.array(struct.unpack(">8I", points)) / 100_000)


def avif_is_srgb(avif: AvifImage, profile: bytes | None) -> bool:
    """Tell whether an AVIF's colours are sRGB."""
    if profile:
        return profile_is_srgb(profile)
    return avif.colours is None or _codes_are_srgb(*avif.colours)


def bmp_is_srgb(data: bytes) -> bool:
    """Tell whether a BMP's colours are sRGB: by its header of version 4 or 5, if it has one."""
    if len(data) < 138 or int.from_bytes(data[14:18], "little") < 108:
        return True
    kind = data[70:74]
    if kind == _BMP_EMBEDDED and data[14] >= 124:
        start, length = struct.unpack_from("<II", data, 126)
        return profile_is_srgb(data[14 + start : 14 + start + length])
    if int.from_bytes(kind, "little") != _BMP_CALIBRATED:
        return kind != _BMP_LINKED
    endpoints = np.array(struct.unpack_from("<9I", data, 74), float).reshape(3, 3)
    gammas = [value / 65_536 for value in struct.unpack_from("<3I", data, 110)]
    if not endpoints.any() or not all(gammas):  # nothing is said
        return True
    primaries = endpoints[:, :2] / np.maximum(endpoints.sum(axis=1, keepdims=True), 1)
    return all(_gamma_is_srgb(1 / gamma) for gamma in gammas) and _chromaticities_are_srgb(primaries)


def _codes_are_srgb(primaries: int, transfer: int) -> bool:
    return primaries in _SRGB_CODES[0] and transfer in _SRGB_CODES[1]


def _gamma_is_srgb(gamma: float) -> bool:
    return abs(gamma / _SRGB_GAMMA - 1) <= _GAMMA_TOLERANCE


def _chromaticities_are_srgb(points: np.ndarray) -> bool:
    """Compare the primaries and, if it comes first, the white point."""
    points = points.reshape(-1, 2)
    return bool((np.abs(points - _SRGB_CHROMATICITIES[-len(points) :]) <= _CHROMATICITY_TOLERANCE).all())
