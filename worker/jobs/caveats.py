"""Caveats: what the reader of a verdict must know about the image, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from shared.images.visualizations import DRAWN_FLAT, Floats, analyzed_region, has_contrast
from worker.imaging.content import lacks_content
from worker.imaging.decoding import ImageFacts
from worker.model.verdicts.policy import Policy

#: A JPEG of a lower quality is called strongly compressed: `distildire evaluate` measures down to this one.
LOWEST_MEASURED_QUALITY = 50
#: From this share of the pixels on, what was analysed is called nearly the whole image.
_NEARLY_ALL = 0.95


def caveats_of(image: ImageFacts, image_size: int, policy: Policy | None, mean: Floats) -> tuple[str, ...]:
    """Return all caveats about an image that was classified under `policy`.

    Args:
        image: the facts of the image.
        image_size: the side of what the network reads.
        policy: the policy that the job names, if any.
        mean: (h, w), of the network's feature map over its channels, which heatmap and overlay show.
    """
    return (
        *_of_content(image, mean),
        *image.caveats,
        *_of_size(image, image_size),
        *_of_file(image, policy),
    )


def _of_content(image: ImageFacts, mean: Floats) -> Iterator[str]:
    reason = lacks_content(image.content)
    if reason:
        yield f"The image has almost no content ({reason}): there is nothing to judge by."
    if reason or not has_contrast(mean):
        yield DRAWN_FLAT


def _of_size(image: ImageFacts, image_size: int) -> Iterator[str]:
    region = analyzed_region(image.width, image.height, image_size)
    if (region.width, region.height) != (image.width, image.height):
        seen = f"{region.width} × {region.height} of {image.width} × {image.height} pixels was analysed"
        nearly_all = region.width * region.height >= _NEARLY_ALL * image.width * image.height
        yield f"The middle {seen}, nearly the whole image." if nearly_all else f"Only the middle {seen}."
    shorter = min(image.width, image.height)
    if shorter < image_size:
        length = "1 pixel" if shorter == 1 else f"{shorter} pixels"
        yield (
            f"The shorter side of {length} was enlarged to the {image_size} that the network reads. That adds "
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
