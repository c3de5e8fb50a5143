"""Running a detector over labelled images: as a service would, on corrupted images, or with some input ablated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.errors import JobError
from worker.datasets.corruptions import Change, as_it_is
from worker.datasets.digests import data_sha256
from worker.datasets.formats import Skipped
from worker.datasets.labelled_image import ChangedImageError, LabelledImage
from worker.evaluation.batch_cache import BatchCache, BatchResult
from worker.imaging.decoding import ImageLimits, decode
from worker.metrics.ranking import Floats
from worker.metrics.scores import Scores
from worker.model.detector import Detector

Ablation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes images and noise maps (B, 3, S, S); returns what the student gets instead."""

OnImage = Callable[[], object]
Follow = Callable[[str], OnImage]
"""Told which pass over the images begins; what it returns is called after each image of it."""

ABLATIONS: Mapping[str, Ablation] = {
    "eps shuffled": lambda x, eps: (x, eps.roll(1, dims=0)),
    "eps zeroed": lambda x, eps: (x, torch.zeros_like(eps)),
    "image zeroed": lambda x, eps: (torch.zeros_like(x), eps),
}
"""What the student must do without: if a figure stays the same, the student did not use what was taken away."""

_AS_SERVED = "as served"
_DIRE = "DIRE"
_Measure = Callable[[Tensor], Mapping[str, Tensor]]
"""Takes images (B, 3, S, S), returns numbers (B,) by their names."""


@dataclass(frozen=True)
class ScoringResult:
    """Logits (N,) as a service would compute them and under each ablation; NaN where an image was skipped."""

    logits: Floats
    ablated: dict[str, Floats]
    skipped: tuple[Skipped, ...]


class Scoring:
    """One detector and N images; each call is a pass over them.

    Images that cannot be read, or for which the model gives no finite number, are listed and skipped. A batch has at
    least `batch_size` images, if there are as many, and fewer than twice as many. With a batch cache, an interrupted
    pass continues where it stopped.
    """

    def __init__(
        self,
        detector: Detector,
        images: Sequence[LabelledImage],
        batch_size: int,
        follow: Follow,
        batch_cache: BatchCache | None = None,
    ) -> None:
        self.detector, self.images = detector, images
        self._follow, self._batch_cache = follow, batch_cache
        # In random order: a batch's shuffled noise maps are then of any images, not of the same source's.
        order = np.random.default_rng(0).permutation(len(images))
        self._batches = [batch.tolist() for batch in np.array_split(order, max(len(images) // batch_size, 1))]

    def logits(
        self, name: str, *, change: Change = as_it_is, ablations: Mapping[str, Ablation] | None = None
    ) -> ScoringResult:
        """Score the images.

        Args:
            name: of the pass; another change needs another name.
            change: done to the upright RGB original before the model's preprocessing.
            ablations: what the student's input is replaced by, besides.
        """
        asked: Mapping[str, Ablation] = ablations or {}

        def measure(x: Tensor) -> dict[str, Tensor]:
            eps = self.detector.noise_map(x).cpu()
            pairs = {_AS_SERVED: (x, eps), **{name: ablation(x, eps) for name, ablation in asked.items()}}
            return {name: self.detector.classify(*pair).logit[:, 0] for name, pair in pairs.items()}

        numbers, skipped = self._pass(name, change, measure, [_AS_SERVED, *asked])
        return ScoringResult(numbers.pop(_AS_SERVED), numbers, skipped)

    def dire_errors(self, name: str) -> Floats:
        """Return the mean of |x - reconstruction| of each image, (N,), in [0, 2]; NaN where it was skipped.

        It is what DIRE's classifier looks at (Wang et al. 2023), as one number: what a diffusion model made, it
        rebuilds better. Takes two passes of the U-Net for each kept step of the diffusion.
        """

        def measure(x: Tensor) -> dict[str, Tensor]:
            return {_DIRE: (x - self.detector.reconstruct(x).cpu()).abs().mean(dim=(1, 2, 3))}

        return self._pass(name, as_it_is, measure, [_DIRE])[0][_DIRE]

    def _pass(
        self, name: str, change: Change, measure: _Measure, names: Sequence[str]
    ) -> tuple[dict[str, Floats], tuple[Skipped, ...]]:
        numbers = {each: np.full(len(self.images), np.nan) for each in names}
        skipped: list[Skipped] = []
        on_image = self._follow(name)
        model = self.detector
        computes = model.card.model_dump_json(include={"adm", "diffusion", "student", "image_size"})
        part = f"{model.weights_sha256} {computes} {model.device} {model.precision} {name} {names}"
        for place, batch in enumerate(self._batches):
            found = self._batch_cache.recall(part, place) if self._batch_cache else None
            if found is None:
                found = self._batch_result(batch, change, measure, names)
                if self._batch_cache:
                    self._batch_cache.note(part, place, found)
            for each, told in found.numbers.items():
                numbers[each][batch] = [np.nan if number is None else number for number in told]
            skipped += [Skipped(self.images[int(at)].path, reason) for at, reason in found.skipped.items()]
            for _ in batch:
                on_image()
        return numbers, tuple(skipped)

    def _batch_result(
        self, batch: Sequence[int], change: Change, measure: _Measure, names: Sequence[str]
    ) -> BatchResult:
        skipped: dict[str, str] = {}
        squares = dict(self._read(batch, change, skipped))
        told: dict[str, dict[int, float]] = {name: {} for name in names}
        if squares:
            for name, values in measure(torch.stack(list(squares.values()))).items():
                told[name] = dict(zip(squares, values.double().tolist(), strict=True))
        for at in squares:
            if not all(np.isfinite(of_name[at]) for of_name in told.values()):
                skipped[str(at)] = "the model gave no finite number"
        return BatchResult(
            {name: [None if str(at) in skipped else of_name[at] for at in batch] for name, of_name in told.items()},
            skipped,
        )

    def _read(self, batch: Sequence[int], change: Change, skipped: dict[str, str]) -> Iterator[tuple[int, Tensor]]:
        """Yield index and preprocessed square (3, S, S) of each image that can be read."""
        for at in batch:
            try:
                image = decode(self.images[at].read(), ImageLimits()).image
                yield at, self.detector.preprocess(change(image, _own_generator(image.tobytes())))
            except JobError as error:
                skipped[str(at)] = f"{error.code}: {error.message}"
            except ChangedImageError as error:
                skipped[str(at)] = error.message
            except OSError as error:
                skipped[str(at)] = f"cannot be read: {error.strerror or error}"


def identity_of(images: Sequence[LabelledImage], batch_size: int) -> list[str]:
    """Return what the numbers of a pass depend on besides the model and where it runs, for a batch cache."""
    return [data_sha256(images), str(batch_size), *(str(image.path) for image in images)]


def scores_of(images: Sequence[LabelledImage], logits: Floats) -> Scores:
    """Put logits (N,) beside what is known of their images; images without a number are omitted."""
    told = Scores(
        logits,
        np.array([image.fake for image in images], dtype=np.bool_),
        np.array([image.generator for image in images], dtype=np.str_),
        np.array([image.group for image in images], dtype=np.str_),
    )
    return told.only(np.isfinite(logits))


def _own_generator(pixels: bytes) -> np.random.Generator:
    """The same for the same picture, wherever it lies and whatever its label."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(pixels).digest()))
