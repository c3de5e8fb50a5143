"""The sandbox's fork server with a decoder that reads every format that Pillow knows, not only the seven accepted.

Pillow's rarer readers are those that crash and loop. No file reaches them in production; here they show what the
sandbox holds. Run in the place of `worker.sandbox.child`.
"""

from __future__ import annotations

import io
import sys

from PIL import Image

from shared.errors import ErrorCode, JobError
from shared.images.header import check_size
from worker.imaging.content import measure
from worker.imaging.decoding import DecodedImage, ImageFacts, ImageLimits
from worker.sandbox import child


def decode_any(data: bytes, limits: ImageLimits) -> DecodedImage:
    """Read an image of any format, and only then check its size: an answer beyond the limits counts as a lie."""
    try:
        image = Image.open(io.BytesIO(data))
        pixels = image.convert("RGB")
        check_size(*image.size, len(data), limits)
        return DecodedImage(pixels, ImageFacts(*pixels.size, "image/png", "PNG", None, content=measure(pixels)))
    except (JobError, MemoryError):
        raise
    except Exception as error:
        raise JobError(ErrorCode.CORRUPT_IMAGE, type(error).__name__) from error


if __name__ == "__main__":
    Image.init()  # all readers: nothing can be imported in a child
    vars(child)["decode"] = decode_any
    child.main(sys.argv[1:])
