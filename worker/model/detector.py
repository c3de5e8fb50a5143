"""The detector: preprocessing, first-step noise, classification, and the complete analysis of one file."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from PIL import Image
from torch import Tensor

from shared.domain import ModelIdentity
from shared.images.visualizations import dire_map_png, heatmap_scores
from worker.imaging.decoding import ImageLimits, decode, preprocess
from worker.model.cards.schema import Format, ModelCard
from worker.model.diffusion import SpacedDiffusion, dire, dire_unit
from worker.model.networks.student import Student, StudentOutput
from worker.model.networks.unet import DTYPES, AdmUnet
from worker.model.verdicts.verdict import DecisionRule, decide


@dataclass(frozen=True)
class Detection:
    """The networks' output for a batch, float32, in CPU memory.

    `eps` (B, 3, S, S): the first-step noise. `logit` (B, 1): higher means more likely fake. `feature` (B, C, h, w): the
    student's feature map.
    """

    eps: Tensor
    logit: Tensor
    feature: Tensor


class ImageDimensions(TypedDict):
    """The image's width and height in pixels, after EXIF orientation."""

    width: int
    height: int


class Analysis(TypedDict):
    """The result of `Detector.analyze`. `heatmap_scores` has height rows of width numbers in [0, 1]."""

    prediction: str
    confidence: float
    processing_time: float
    dimensions: ImageDimensions
    heatmap_scores: list[list[float]]
    visualization_path: NotRequired[str]


class Detector:
    """A loaded model on its device. `load_model` makes it.

    Only one thread may call it at a time, because it owns the device. `card_path`: the file that the card was read
    from, if any.
    """

    def __init__(
        self,
        card: ModelCard,
        diffusion: SpacedDiffusion,
        unet: AdmUnet,
        student: Student,
        *,
        weights_sha256: str,
        card_path: Path | None = None,
    ) -> None:
        self.card, self.card_path = card, card_path
        self.weights_sha256 = weights_sha256
        self.device = next(student.parameters()).device
        self.precision: Format = next(name for name, dtype in DTYPES.items() if dtype == unet.dtype)
        self._diffusion = diffusion
        self.unet = unet
        self.student = student

    @property
    def identity(self) -> ModelIdentity:
        """Which weights give its verdicts, and on what they are computed."""
        return ModelIdentity(
            name=self.card.name,
            weights_sha256=self.weights_sha256,
            demonstration=self.card.demonstration,
            device=str(self.device),
            precision=self.precision,
        )

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return the networks' input for an image: (3, S, S), float32 in [-1, 1], in CPU memory."""
        return torch.from_numpy(preprocess(image.convert("RGB"), self.card.image_size))

    @torch.inference_mode()
    def noise_map(self, x: Tensor) -> Tensor:
        """Return the first-step noise eps at t = 0 of images x: (B, 3, S, S) in [-1, 1] -> the same shape, float32."""
        return self._diffusion.first_step_eps(self.unet, self._batch(x))

    @torch.inference_mode()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return DIRE's reconstruction of images x, by DDIM inversion and sampling: (B, 3, S, S) float32.

        It needs two passes of the U-Net for each kept step of the diffusion: 40 times as long as `noise_map`.
        """
        return self._diffusion.reconstruct(self.unet, self._batch(x))

    @torch.inference_mode()
    def classify(self, x: Tensor, eps: Tensor) -> StudentOutput:
        """Return logit (B, 1) and feature (B, C, h, w), float32, of images and their noise maps, both (B, 3, S, S).

        A student that reads DIRE images ignores eps: this method makes the DIRE images, which takes as long as
        `reconstruct`.
        """
        x, eps = self._batch(x), self._batch(eps)
        if self.card.student.inputs == "dire":
            eps = dire_unit(dire(x, self._diffusion.reconstruct(self.unet, x)))
        return self.answer_to(x, eps)

    @torch.inference_mode()
    def answer_to(self, x: Tensor, shown: Tensor) -> StudentOutput:
        """Return the student's output for images x and its second input `shown`, both (B, 3, S, S).

        The second input is a noise map, or a DIRE image for a student that reads those. The U-Net does not run.
        """
        output: StudentOutput = self.student(self._batch(x), self._batch(shown))
        return output

    def detect(self, x: Tensor) -> Detection:
        """Run both networks on a batch of images x: (B, 3, S, S) in [-1, 1], float32, on any device."""
        eps = self.noise_map(x)
        output = self.classify(x, eps)
        return Detection(eps.cpu(), output.logit.cpu(), output.feature.cpu())

    def warm_up(self, batch_size: int) -> None:
        """Run once on a full batch, so that no job has to wait while the first pass sets up memory and kernels."""
        side = self.card.image_size
        self.detect(torch.zeros(batch_size, 3, side, side))

    def analyze(self, media_path: str | Path, generate_visualizations: bool = False) -> Analysis:
        """Analyse one image file.

        Args:
            media_path: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.
            generate_visualizations: write the DIRE map to a temporary PNG, which the caller removes.

        Raises:
            JobError: the file is not an accepted image; `code` says why.
        """
        start = time.perf_counter()
        image = decode(Path(media_path), ImageLimits()).image
        detection = self.detect(self.preprocess(image)[None])
        verdict = decide(detection.logit.item(), DecisionRule(self.card.threshold))
        mean = detection.feature[0].mean(dim=0).numpy()
        result = Analysis(
            prediction=verdict.prediction,
            confidence=verdict.confidence,
            processing_time=0.0,
            dimensions=ImageDimensions(width=image.width, height=image.height),
            heatmap_scores=heatmap_scores(mean, image.width, image.height).tolist(),
        )
        if generate_visualizations:
            result["visualization_path"] = str(_write_dire_map(detection.eps[0]))
        result["processing_time"] = time.perf_counter() - start
        return result

    def _batch(self, x: Tensor) -> Tensor:
        """Check a batch's shape and move it to the device as float32."""
        side = self.card.image_size
        if x.ndim != 4 or x.shape[1:] != (3, side, side):
            raise ValueError(f"{self.card.name} takes (B, 3, {side}, {side}), not {tuple(x.shape)}")
        return x.to(self.device, torch.float32)


def _write_dire_map(eps: Tensor) -> Path:
    with tempfile.NamedTemporaryFile(prefix="dire_map_", suffix=".png", delete=False) as file:
        file.write(dire_map_png(eps.numpy()))
    return Path(file.name)
