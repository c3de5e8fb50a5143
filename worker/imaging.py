"""From a file's bytes to RGB pixels, and from those to what the network reads.

Files come from strangers, so this runs in the sandbox's child processes. It imports numpy and Pillow, never torch.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# All that decoding needs is imported here: a child of the sandbox can open no file, so it can import nothing any more.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    Image,
    ImageCms,  # noqa: F401  converts LAB
    MpoImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)
from PIL.ExifTags import Base as ExifTag

from shared.errors import ErrorCode, JobError
from shared.media import HEAD_BYTES, ImageLimits, check_header, check_size, jpeg_scans
from shared.pictures import crop_offset, resized
from worker.jpeg_quality import estimate_quality

Image.preinit()  # the plugins for the other formats

__all__ = ["FORMATS", "Caveat", "DecodedImage", "ImageFacts", "ImageLimits", "decode", "preprocess"]

#: What Pillow calls the formats of each media type; the first is the reader that it is asked for.
FORMATS = {
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/webp": ("WEBP",),
    "image/gif": ("GIF",),
    "image/bmp": ("BMP",),
    "image/tiff": ("TIFF",),
    "image/avif": ("AVIF",),
}
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
#: Pixels times scans of a JPEG: 50 scans at the most pixels, far more than programs write; about a second.
_MAX_SCANNED_PIXELS = 2_000_000_000
#: Rows that are resized at once: bounds the float copies to a few megabytes for any image.
_BAND_PIXELS = 1 << 20


class Caveat(StrEnum):
    """What a reader of the verdict must know about how the file was read."""

    ALPHA_DROPPED = "Transparency was dropped; the colours stored beneath it were analysed."
    FIRST_FRAME = "Only the first frame of the animation was analysed."
    FIRST_IMAGE = "Only the first of several images in the file was analysed."
    SIXTEEN_BITS = "16-bit samples were reduced to 8 bits."
    CMYK = "CMYK colours were converted to RGB without a colour profile."
    NO_ORIENTATION = "The EXIF data could not be read, so the image was analysed as it is stored."


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image beside its pixels."""

    width: int
    """Of the upright image, in pixels."""
    height: int
    media_type: str
    """By the file's first bytes."""
    file_format: str
    """What was really decoded, as Pillow calls it: one of the media type's `FORMATS`."""
    jpeg_quality: int | None
    """1 to 100, estimated; None for other formats, and where the quantisation tables are not libjpeg's."""
    caveats: tuple[Caveat, ...] = ()


@dataclass(frozen=True)
class DecodedImage:
    """An upright RGB image and what is known of it."""

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
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS[media_type][:1])
    check_size(*image.size, len(data), limits)
    if media_type == "image/jpeg":
        _refuse_many_scans(data, image)
    caveats = _caveats(image)
    image.load()
    try:
        upright = _UPRIGHT.get(image.getexif().get(ExifTag.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the pixels are good; only the note that lies beside them is not
        upright = None
        caveats.append(Caveat.NO_ORIENTATION)
    pixels = _rgb(image)
    if upright is not None:
        pixels = pixels.transpose(upright)
    quality = estimate_quality(getattr(image, "quantization", {}))
    facts = ImageFacts(*pixels.size, media_type, str(image.format), quality, tuple(caveats))
    return DecodedImage(pixels, facts)


def _refuse_many_scans(data: bytes, image: Image.Image) -> None:
    """Refuse a JPEG whose scans, a few bytes each, would keep its reader busy for minutes."""
    scans = jpeg_scans(data)
    if scans * image.width * image.height > _MAX_SCANNED_PIXELS:
        raise JobError(
            ErrorCode.DECOMPRESSION_BOMB, f"The image is stored in {scans:,} scans. Save it anew, with fewer or none."
        )


def _caveats(image: Image.Image) -> list[Caveat]:
    """What the conversion to 8-bit RGB will lose. Asked before `load`, which forgets how samples are stored."""
    found = {
        Caveat.ALPHA_DROPPED: image.has_transparency_data,
        Caveat.SIXTEEN_BITS: _is_deep(image),
        Caveat.CMYK: image.mode == "CMYK",
    }
    if getattr(image, "is_animated", False):
        found[Caveat.FIRST_IMAGE if image.format in {"MPO", "TIFF"} else Caveat.FIRST_FRAME] = True
    return [caveat for caveat, applies in found.items() if applies]


def _is_deep(image: Image.Image) -> bool:
    """Whether a sample has 16 bits. Pillow has no such mode for colour, but its decoder's raw mode tells."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


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
    """What the network reads: float32 (3, size, size) in [−1, 1].

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
