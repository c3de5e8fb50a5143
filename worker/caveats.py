"""What a reader of a verdict must know of the image that it is about, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from shared.pictures import analyzed_region
from worker.imaging import ImageFacts
from worker.model.policy import Policy

#: A JPEG of a lower quality is called strongly compressed: `distildire evaluate` measures down to this one.
LOWEST_MEASURED_QUALITY = 50


def caveats_of(image: ImageFacts, image_size: int, policy: Policy | None) -> tuple[str, ...]:
    """Return all caveats about an image whose square of `image_size` pixels a network saw, judged by `policy`."""
    return (*image.caveats, *_of_size(image, image_size), *_of_file(image, policy))


def _of_size(image: ImageFacts, image_size: int) -> Iterator[str]:
    region = analyzed_region(image.width, image.height, image_size)
    if (region.width, region.height) != (image.width, image.height):
        yield f"Only the middle {region.width} × {region.height} of {image.width} × {image.height} pixels was analysed."
    shorter = min(image.width, image.height)
    if shorter < image_size:
        yield (
            f"The shorter side of {shorter} pixels was enlarged to the {image_size} that the network reads. That adds "
            "no detail, so there is less to judge by."
        )


def _of_file(image: ImageFacts, policy: Policy | None) -> Iterator[str]:
    if image.jpeg_quality is not None and image.jpeg_quality < LOWEST_MEASURED_QUALITY:
        yield (
            f"The file is a JPEG of quality {image.jpeg_quality} or so. Compression this strong removes what verdicts "
            "rest on, from photographs and from fakes."
        )
    if policy is not None and policy.evidence.media_types and image.media_type not in policy.evidence.media_types:
        yield (
            f"The policy {policy.name} was made with {', '.join(policy.evidence.media_types)}, and this is "
            f"{image.media_type}: what was measured of the policy need not hold for it."
        )
