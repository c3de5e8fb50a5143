"""Scales stored pictures down, for thumbnails."""

from __future__ import annotations

from io import BytesIO

from PIL import Image


def scaled_down(picture: bytes, max_side: int) -> bytes:
    """Return a PNG or JPEG file, no wider and no higher than `max_side` pixels, in its own format.

    A picture that is small enough is returned as it is.
    """
    with Image.open(BytesIO(picture), formats=("PNG", "JPEG")) as image:
        if max(image.size) <= max_side:
            return picture
        colours = image if image.mode == "RGB" else image.convert("RGB")  # of a palette no mean can be taken
        colours.thumbnail((max_side, max_side))
        file = BytesIO()
        colours.save(file, image.format)
        return file.getvalue()
