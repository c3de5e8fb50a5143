"""Running a detector over labelled images: as a service would, changed beforehand, or robbed of a part of its input."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import JobError
from worker.imaging import ImageLimits, decode
from worker.model.detector import Detector
from worker.training.dataset import LabelledImage, Skipped
from worker.training.metrics import Floats
from worker.training.scores import Scores
from worker.training.views import Change, as_it_is

Ablation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes images and noise maps (B, 3, S, S); returns what the student gets instead."""

OnImage = Callable[[], object]
"""Called after each image, for progress."""

ABLATIONS: Mapping[str, Ablation] = {
    "eps shuffled": lambda x, eps: (x, eps.roll(1, dims=0)),
    "eps zeroed": lambda x, eps: (x, torch.zeros_like(eps)),
    "image zeroed": lambda x, eps: (torch.zeros_like(x), eps),
}
"""What the student is asked to do without: if a figure stays, what was taken away was not used."""


@dataclass
class Judged:
    """Logits (N,) as a service would compute them and under each ablation; NaN where an image was skipped."""

    logits: Floats
    ablated: dict[str, Floats]
    skipped: list[Skipped] = field(default_factory=list)


def run(
    detector: Detector,
    images: Sequence[LabelledImage],
    *,
    batch_size: int,
    on_image: OnImage,
    change: Change = as_it_is,
    ablations: Mapping[str, Ablation] | None = None,
) -> Judged:
    """Judge images. Those that cannot be read, or of which the model says no number, are listed and skipped.

    Args:
        detector: the model.
        images: N images.
        batch_size: at least so many images are judged at once, where there are as many, and fewer than twice so many.
        on_image: called N times.
        change: done to the upright RGB original before the model's preprocessing.
        ablations: what else the student is asked.
    """
    asked = ablations or {}
    judged = Judged(np.full(len(images), np.nan), {name: np.full(len(images), np.nan) for name in asked})
    # In random order: a batch's shuffled noise maps are then of any images, not of the same photograph's.
    order = np.random.default_rng(0).permutation(len(images))
    for chunk in np.array_split(order, max(len(images) // batch_size, 1)):
        squares = dict(_read(detector, images, chunk, change, on_image, judged.skipped))
        if squares:
            _judge(detector, squares, asked, judged)
    for index in order[~np.isfinite(judged.logits[order])]:
        if not any(skipped.path == images[index].path for skipped in judged.skipped):
            judged.skipped.append(Skipped(images[index].path, "the model gave no finite number"))
    return judged


def dire_errors(detector: Detector, images: Sequence[LabelledImage], *, batch_size: int, on_image: OnImage) -> Floats:
    """Return the mean of |x - reconstruction| of each image, (N,), in [0, 2]; NaN where it cannot be read.

    It is what DIRE's classifier looks at (Wang et al. 2023), as one number: what a diffusion model made, it rebuilds
    better. Takes two passes of the U-Net for each kept step of the diffusion.
    """
    errors = np.full(len(images), np.nan)
    for chunk in np.array_split(np.arange(len(images)), max(len(images) // batch_size, 1)):
        squares = dict(_read(detector, images, chunk, as_it_is, on_image, []))
        if squares:
            x = torch.stack(list(squares.values()))
            distances = (x - detector.reconstruct(x).cpu()).abs().mean(dim=(1, 2, 3))
            errors[list(squares)] = distances.double().numpy()
    return errors


def scores_of(images: Sequence[LabelledImage], logits: Floats) -> Scores:
    """Put logits (N,) beside what is known of their images; those without a number are left out."""
    told = Scores(
        logits,
        np.array([image.fake for image in images], dtype=np.bool_),
        np.array([image.generator for image in images], dtype=np.str_),
        np.array([image.group for image in images], dtype=np.str_),
    )
    return told.only(np.isfinite(logits))


def data_sha256(images: Sequence[LabelledImage]) -> str:
    """Return the digest of the images' bytes, labels, generators and groups, whatever their paths and order."""
    lines = []
    for image in images:
        with image.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{content} {'fake' if image.fake else 'real'} {image.generator} {image.group}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _read(
    detector: Detector,
    images: Sequence[LabelledImage],
    chunk: NDArray[np.intp],
    change: Change,
    on_image: OnImage,
    skipped: list[Skipped],
) -> Iterator[tuple[int, Tensor]]:
    """Yield index and preprocessed square (3, S, S) of each image that can be read."""
    for index in chunk.tolist():
        path = images[index].path
        try:
            image = decode(path, ImageLimits()).image
            yield index, detector.preprocess(change(image, _own_generator(image.tobytes())))
        except JobError as error:
            skipped.append(Skipped(path, f"{error.code}: {error.message}"))
        except OSError as error:
            skipped.append(Skipped(path, f"cannot be read: {error.strerror or error}"))
        on_image()


def _own_generator(pixels: bytes) -> np.random.Generator:
    """The same for the same picture, wherever it lies and whatever its label."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(pixels).digest()))


def _judge(detector: Detector, squares: Mapping[int, Tensor], asked: Mapping[str, Ablation], judged: Judged) -> None:
    indices = list(squares)
    x = torch.stack(list(squares.values()))
    eps = detector.noise_map(x).cpu()
    judged.logits[indices] = _logits(detector, x, eps)
    for name, ablation in asked.items():
        judged.ablated[name][indices] = _logits(detector, *ablation(x, eps))


def _logits(detector: Detector, x: Tensor, eps: Tensor) -> Floats:
    return detector.classify(x, eps).logit[:, 0].cpu().double().numpy()
