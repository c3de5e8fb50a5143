"""From a file's bytes to RGB pixels, and from those to the network's input.

The files are untrusted, so this runs in the sandbox's child processes. It imports numpy and Pillow, never torch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from shared.errors import ErrorCode, JobError
from shared.images.header import HEAD_BYTES, ImageLimits, check_header
from shared.images.visualizations import crop_offset, resized
from worker.imaging.content import Content, measure
from worker.imaging.image_files import FORMATS, Caveat, ImageFile, open_image
from worker.imaging.jpeg_quality import estimate_quality

__all__ = ["FORMATS", "Caveat", "DecodedImage", "ImageFacts", "ImageLimits", "decode", "preprocess"]

#: Pillow's constants turn against the clock, EXIF's orientations say how to turn the stored image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: How Pillow's PNG reader begins to say that a compressed text or profile unpacks to more than it allows.
_BOMB_MESSAGES = ("Decompressed data too large", "Too much memory used in text chunks")
#: Rows that are resized at once: bounds the float copies to a few megabytes for any image.
_BAND_PIXELS = 1 << 20


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an image besides its pixels."""

    width: int
    """Of the upright image, in pixels."""
    height: int
    media_type: str
    """By the file's first bytes."""
    file_format: str
    """The format that was actually decoded, by Pillow's name: one of the media type's `FORMATS`."""
    jpeg_quality: int | None
    """An estimate, 1 to 100; None for other formats, and if the quantisation tables are not libjpeg's."""
    caveats: tuple[Caveat, ...] = ()
    content: Content = field(kw_only=True)
    """The measures of the image's content."""


@dataclass(frozen=True)
class DecodedImage:
    """An upright RGB image and the facts about it."""

    image: Image.Image
    facts: ImageFacts


def decode(source: bytes | Path, limits: ImageLimits) -> DecodedImage:
    """Read an image by its content, never by its name.

    Raises JobError: unsupported_media_type, corrupt_image, image_too_large, decompression_bomb or out_of_memory. No
    pixel is decoded before the size is known to be within the limits.
    """
    data = source if isinstance(source, bytes) else _read(source, limits)
    media_type = check_header(data[:HEAD_BYTES], len(data), limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the outcome may not depend on the caller's filters
            return _decoded(data, media_type, limits)
    except JobError:
        raise
    except MemoryError as error:
        raise JobError(ErrorCode.OUT_OF_MEMORY) from error
    except Image.DecompressionBombError as error:
        raise JobError(ErrorCode.DECOMPRESSION_BOMB) from error
    except Exception as error:  # on hostile files Pillow raises nearly every class there is
        bomb = str(error).startswith(_BOMB_MESSAGES)
        raise JobError(ErrorCode.DECOMPRESSION_BOMB if bomb else ErrorCode.CORRUPT_IMAGE) from error


def _read(path: Path, limits: ImageLimits) -> bytes:
    """The file's bytes, at most one more than the limit: enough to be refused."""
    with path.open("rb") as file:
        return file.read(limits.max_bytes + 1)


def _decoded(data: bytes, media_type: str, limits: ImageLimits) -> DecodedImage:
    file = open_image(data, media_type, limits)
    file.image.load()
    file.check()
    if _shows_through(file.image):
        file.caveats.append(Caveat.ALPHA_DROPPED)
    return _upright(file, media_type)


def _upright(file: ImageFile, media_type: str) -> DecodedImage:
    """Convert decoded pixels to upright RGB, and collect the facts about the file."""
    image, caveats = file.image, file.caveats
    try:
        upright = _UPRIGHT.get(image.getexif().get(ExifTag.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the pixels are good; only the note that lies beside them is not
        upright = None
        caveats.append(Caveat.NO_ORIENTATION)
    pixels = _rgb(image)
    if file.shown is not None:
        pixels = pixels.crop(file.shown)
    if upright is not None:
        pixels = pixels.transpose(upright)
    quality = estimate_quality(getattr(image, "quantization", {}))
    facts = ImageFacts(*pixels.size, media_type, str(image.format), quality, tuple(caveats), content=measure(pixels))
    return DecodedImage(pixels, facts)


def _shows_through(image: Image.Image) -> bool:
    """Whether a pixel of a decoded image is transparent, in whole or in part."""
    if not image.has_transparency_data:
        return False
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        return bool((np.asarray(image) == key).any())
    if isinstance(key, tuple) and max(key) > 0xFF:  # the one transparent colour of a 16-bit image
        image.info["transparency"] = tuple(level >> 8 for level in key)
    band = max(_BAND_PIXELS // image.width, 1)
    bands = (image.crop((0, top, image.width, min(top + band, image.height))) for top in range(0, image.height, band))
    return any((np.asarray(each.convert("RGBA").getchannel("A")) < 0xFF).any() for each in bands)


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB. Deep samples keep their high byte, as Pillow does it for colour; for grey it would clip."""
    if image.mode == "F":
        raise JobError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The image has floating-point samples. Convert it to 8 bits a channel."
        )
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image), 0, 0xFFFF) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    image.info.pop("transparency", None)  # else Pillow searches for a colour that stands for it
    return image if image.mode == "RGB" else image.convert("RGB")


def preprocess(image: Image.Image, size: int) -> NDArray[np.float32]:
    """Return the network's input: float32 (3, size, size) in [−1, 1].

    Equals torchvision's `CenterCrop(size)(Resize(size, antialias=True)(to_tensor(image) * 2 − 1))` on an RGB image: to
    1e-6 where torchvision computes in float64, to about 2e-5 in float32, whose rounded filter positions are
    torchvision's own error. The resize is separable and linear, so it is done across first, in bands of rows, and
    scaled at the end.
    """
    columns, rows = resized(image.width, image.height, size)
    narrow = _resized_across(image, columns, size)
    top = crop_offset(rows, size)
    x = np.empty((3, size, size), np.float32)
    for channel, plane in enumerate(narrow):
        x[channel] = np.asarray(_bilinear(Image.fromarray(plane), size, rows))[top : top + size]
    x *= 2 / 255
    x -= 1
    return x


def _resized_across(image: Image.Image, columns: int, size: int) -> NDArray[np.float32]:
    """(3, height, size), 0…255: every row resized to `columns`, of which the middle `size` are kept."""
    left = crop_offset(columns, size)
    narrow = np.empty((3, image.height, size), np.float32)
    band = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, band):
        bottom = min(top + band, image.height)
        strip = image.crop((0, top, image.width, bottom))
        for channel, plane in enumerate(strip.split()):
            wide = _bilinear(plane.convert("F"), columns, bottom - top)
            narrow[channel, top:bottom] = np.asarray(wide)[:, left : left + size]
    return narrow


def _bilinear(plane: Image.Image, width: int, height: int) -> Image.Image:
    """Resized with Pillow's bilinear filter, which on mode F is the antialiased one of torch."""
    return plane.resize((width, height), Image.Resampling.BILINEAR)
