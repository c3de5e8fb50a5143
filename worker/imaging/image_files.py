"""Opening an image file by its format, with what it says about its image, and checking that the file is complete.

The opened image is the one that viewers show: the first frame of an animation, the clean aperture of an AVIF. This code
runs in the sandbox's child processes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import numpy as np

# Everything that decoding needs is imported here: a child of the sandbox cannot open files, hence not import modules.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    Image,
    MpoImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from shared.errors import ErrorCode, JobError
from shared.images.header import ImageLimits, check_size
from worker.imaging.avif_boxes import read_avif
from worker.imaging.colours import avif_is_srgb, bmp_is_srgb, png_is_srgb, profile_is_srgb
from worker.imaging.jpeg_stream import Completeness, completeness, read_stream, with_end
from worker.imaging.png_chunks import chunks, has_all_rows
from worker.imaging.tiff_forms import check_form, check_strips

Image.preinit()  # the plugins for the other formats

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
#: Pixels times scans of a JPEG: 25 scans at the most pixels, more than programs write; a second or two, in two passes.
_MAX_SCANNED_PIXELS = 1_000_000_000
#: A run of zeros that no arithmetic coding or other good compression writes. It is found in files that were never
#: written to their end, and in a disk's empty sectors.
_ZERO_RUN = bytes(512)
#: The chunks of a WebP file that hold compressed pixels.
_WEBP_PIXELS = frozenset({b"VP8 ", b"VP8L", b"ALPH"})


class Caveat(StrEnum):
    """What a reader of the verdict must know about how the file was read."""

    ALPHA_DROPPED = "Transparency was dropped; the colours stored beneath it were analysed."
    FIRST_FRAME = "Only the first frame of the animation was analysed."
    FIRST_IMAGE = "Only the first of several images in the file was analysed."
    HIDDEN_DEFAULT = (
        "The first frame of the APNG was analysed. Programs that do not know APNG show another image, one of no frame."
    )
    SIXTEEN_BITS = "16-bit samples were reduced to 8 bits."
    DEEP_SAMPLES = "Samples of 10 or 12 bits were reduced to 8 bits."
    CMYK = "CMYK colours were converted to RGB without a colour profile."
    NOT_SRGB = (
        "The file says that its colours are not sRGB. They were analysed as if they were, without conversion, as the "
        "published detector does."
    )
    NO_ORIENTATION = "The EXIF data could not be read, so the image was analysed as it is stored."
    NO_END = "The file has no end marker. All of its pixels are there."
    NEARLY_COMPLETE = (
        "The file breaks off: up to 1 % of the pixels, at the end of the image, are missing and were filled with grey."
    )
    LEFT_OVER = (
        "The file holds a little more data than its pixels need. Some cameras write such files; damage may do so too, "
        "and then part of the image may not be what it was."
    )
    NOT_CHECKED = "Whether all of the image is in the file could not be checked: its colours are sampled in a rare way."


_OF_COMPLETENESS = {
    Completeness.NO_END: Caveat.NO_END,
    Completeness.NEARLY: Caveat.NEARLY_COMPLETE,
    Completeness.LEFT_OVER: Caveat.LEFT_OVER,
    Completeness.NOT_CHECKED: Caveat.NOT_CHECKED,
}


@dataclass
class ImageFile:
    """An image that is opened but not yet decoded, and what its format says about it."""

    image: Image.Image
    caveats: list[Caveat] = field(default_factory=list)
    shown: tuple[int, int, int, int] | None = None
    """(left, top, right, bottom) of the part that viewers show; None for all."""
    check: Callable[[], None] = lambda: None
    """Call it once the pixels are decoded: it raises JobError corrupt_image if some were not."""


def open_image(data: bytes, media_type: str, limits: ImageLimits) -> ImageFile:
    """Open an image of a known type; none of its pixels is decoded yet.

    Raises:
        JobError: corrupt_image, image_too_large, decompression_bomb or unsupported_media_type.
        Exception: nearly every class there is, from Pillow, on a file that is damaged.
    """
    if media_type == "image/tiff":
        check_form(data)
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS[media_type][:1])
    check_size(*image.size, len(data), limits)
    file = _READERS[media_type](data, image)
    if _is_deep(file.image):
        file.caveats.append(Caveat.SIXTEEN_BITS)
    return file


def _jpeg(data: bytes, image: Image.Image) -> ImageFile:
    stream = read_stream(data)
    _refuse_many_scans(stream.scans, image)
    found = completeness(stream)
    if found is Completeness.DAMAGED:
        raise JobError(
            ErrorCode.CORRUPT_IMAGE, "The JPEG is damaged or incomplete: part of its image is lost. Upload it again."
        )
    caveats = [_OF_COMPLETENESS[found]] if found in _OF_COMPLETENESS else []
    if not stream.ended:
        image = Image.open(io.BytesIO(with_end(data, stream)), formats=["JPEG"])
    caveats += [*_colours(image, srgb=_profile_is_srgb(image)), *_frames(image, Caveat.FIRST_IMAGE)]
    return ImageFile(image, caveats)


def _png(data: bytes, image: Image.Image) -> ImageFile:
    found = {chunk.kind: chunk for chunk in chunks(data)}
    caveats = [] if b"IEND" in found else [Caveat.NO_END]
    caveats += _colours(image, srgb=png_is_srgb(found, image.info.get("icc_profile")))
    frames = getattr(image, "n_frames", 1)
    check = partial(_check_rows, image, data)
    if image.info.get("default_image") and frames > 1:
        frames -= 1
        try:
            image.seek(1)  # what Pillow counts as the first is in no frame
            caveats.append(Caveat.HIDDEN_DEFAULT)
        except (
            EOFError,
            SyntaxError,
        ):  # viewers show the default image of an APNG whose frames are not as they should be
            image, frames = Image.open(io.BytesIO(data), formats=["PNG"]), 1
            check = partial(_check_rows, image, data)
    return ImageFile(image, [*caveats, *([Caveat.FIRST_FRAME] if frames > 1 else [])], check=check)


def _check_rows(image: Image.Image, data: bytes) -> None:
    """Look for rows that were not in the file, which Pillow leaves zero."""
    last = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
    if (image.info.get("interlace") or not last.any()) and not has_all_rows(chunks(data)):
        raise JobError(ErrorCode.CORRUPT_IMAGE)


def _webp(data: bytes, image: Image.Image) -> ImageFile:
    at = 12
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] in _WEBP_PIXELS and _ZERO_RUN in data[at + 8 : end]:
            raise JobError(ErrorCode.CORRUPT_IMAGE)
        at = end + end % 2
    return _animation(data, image)


def _avif(data: bytes, image: Image.Image) -> ImageFile:
    avif = read_avif(data, image.size, _ZERO_RUN)
    if avif.zero_filled:
        raise JobError(ErrorCode.CORRUPT_IMAGE)
    caveats = _colours(image, srgb=avif_is_srgb(avif, image.info.get("icc_profile")))
    caveats += [Caveat.DEEP_SAMPLES] if avif.depth > 8 else []
    return ImageFile(image, [*caveats, *_frames(image, Caveat.FIRST_FRAME)], avif.clean_aperture)


def _animation(_data: bytes, image: Image.Image) -> ImageFile:
    return ImageFile(image, [*_colours(image, srgb=_profile_is_srgb(image)), *_frames(image, Caveat.FIRST_FRAME)])


def _tiff(data: bytes, image: Image.Image) -> ImageFile:
    check_strips(data)
    return ImageFile(image, [*_colours(image, srgb=_profile_is_srgb(image)), *_frames(image, Caveat.FIRST_IMAGE)])


def _bmp(data: bytes, image: Image.Image) -> ImageFile:
    return ImageFile(image, _colours(image, srgb=bmp_is_srgb(data)))


_READERS: dict[str, Callable[[bytes, Image.Image], ImageFile]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/webp": _webp,
    "image/gif": _animation,
    "image/bmp": _bmp,
    "image/tiff": _tiff,
    "image/avif": _avif,
}


def _profile_is_srgb(image: Image.Image) -> bool:
    profile = image.info.get("icc_profile")
    return not profile or profile_is_srgb(profile)


def _colours(image: Image.Image, *, srgb: bool) -> list[Caveat]:
    """Return the caveat about the image's colours, if any. That of CMYK includes the missing conversion to sRGB."""
    if image.mode == "CMYK":
        return [Caveat.CMYK]
    return [] if srgb else [Caveat.NOT_SRGB]


def _frames(image: Image.Image, caveat: Caveat) -> list[Caveat]:
    return [caveat] if getattr(image, "is_animated", False) else []


def _refuse_many_scans(scans: int, image: Image.Image) -> None:
    """Refuse a JPEG whose scans, a few bytes each, would keep its reader busy for minutes."""
    if scans * image.width * image.height > _MAX_SCANNED_PIXELS:
        raise JobError(
            ErrorCode.DECOMPRESSION_BOMB, f"The image is stored in {scans:,} scans. Save it again, with fewer or none."
        )


def _is_deep(image: Image.Image) -> bool:
    """Whether a sample has 16 bits. Pillow has no such mode for colour, but the decoder's raw mode tells before `load`.

    In a BMP's raw modes the number is that of a whole pixel's bits.
    """
    if image.format == "BMP":
        return False
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
