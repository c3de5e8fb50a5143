"""Pretrained networks: the frozen teacher, and initial weights for the student.

The operator names the files: weights in torchvision's format, or EfficientNet-Lite0's for the teacher. Nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from shared.errors import DistildireError
from worker.model.networks.backbones import get_model_weights
from worker.model.networks.student import Student, feature_channels, feature_layers, first_convolution
from worker.model.weights.state_dicts import assign_strictly, read_state
from worker.training import efficientnet_lite0
from worker.training.pairs.store import Batch
from worker.training.recipe import RecipeError, StudentOptions, TeacherOptions

Section = Literal["student", "teacher"]
"""Of the recipe."""

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's RGB in [0, 1], as torchvision's classifiers expect it."""


class PretrainedError(DistildireError):
    """The weights of a pretrained network cannot be used."""


class Teacher(nn.Module):
    """A frozen classifier up to its feature map. Its input is the image or the DIRE image.

    Raises:
        RecipeError: there is no such classifier.
        PretrainedError: the file of its weights does not exist.
        ModelError: the file holds other weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, options: TeacherOptions, input_size: int | None) -> None:
        super().__init__()
        self.options, self.input_size = options, input_size
        is_lite0 = options.backbone == efficientnet_lite0.NAME
        self.layers: nn.Module = (
            efficientnet_lite0.load_lite0(_named("teacher", options.backbone, options.weights))
            if is_lite0
            else pretrained_layers("teacher", options.backbone, options.weights)
        )
        self.channels = feature_channels(options.backbone, self.layers)
        mean, deviation = (efficientnet_lite0.MEAN, efficientnet_lite0.DEVIATION) if is_lite0 else (_MEAN, _DEVIATION)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None])
        self.eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Return the feature map (B, C, h, w) of the teacher's input, at the student's input size."""
        shown = batch.dire if self.options.sees == "dire" else batch.x
        if shown is None:
            raise ValueError("the teacher sees DIRE images, and the pairs were made without")
        if self.options.normalised:
            shown = ((shown + 1) / 2 - self.mean) / self.deviation
        if self.input_size is not None:
            shown = F.interpolate(shown, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False)
        feature: Tensor = self.layers(shown.contiguous(memory_format=torch.channels_last))
        return feature


def new_student(options: StudentOptions, seed: int) -> Student:
    """Return a new student with random weights by `seed`, or with the backbone's weights from the recipe's file.

    Raises:
        RecipeError: torchvision has no such backbone.
        PretrainedError: the file does not exist.
        ModelError: the file holds other weights.
    """
    torch.manual_seed(seed)
    try:
        student = Student(options)
    except ValueError as error:
        raise RecipeError(f"student.backbone: {error}. Name another one.") from error
    if options.weights is not None:
        state = pretrained_layers("student", options.backbone, options.weights).state_dict()
        _widen_first(state, options, student.student_backbone)
        student.student_backbone.load_state_dict(state)
    return student


@torch.no_grad()
def check_sizes(student: Student, teacher: Teacher | None, options: StudentOptions, image_size: int) -> None:
    """Check that both networks can process images of their size: small ones may shrink to nothing.

    Raises:
        RecipeError: one of them cannot.
    """
    x = torch.zeros(1, 3, image_size, image_size)
    side = options.input_size or image_size
    _look("student", options.backbone, side, lambda: student.eval()(x, x))
    student.train()
    if teacher is not None:
        _look("teacher", teacher.options.backbone, side, lambda: teacher(Batch(x, x, x, torch.zeros(1))))


def _look(section: Section, backbone: str, side: int, look: Callable[[], object]) -> None:
    try:
        look()
    except (AssertionError, RuntimeError) as error:
        raise RecipeError(
            f"{section}.backbone: {backbone} cannot look at images of {side} pixels: {error}. Name a larger "
            "student.input_size, or another backbone."
        ) from error


def pretrained_layers(section: Section, backbone: str, weights: Path | None) -> nn.Sequential:
    """Return a classifier up to its feature map, with the weights of a file; other weights in the file are ignored.

    Files from before torch 0.4.1, some of which torchvision still publishes, lack `num_batches_tracked`, which is not
    used here.
    """
    try:
        with torch.device("meta"):
            layers = feature_layers(backbone)
    except ValueError as error:
        raise RecipeError(f"{section}.backbone: {error}. Name another one.") from error
    weights = _named(section, backbone, weights)
    wanted = {name.partition(".")[0] for name in layers.state_dict()}
    state = {name: value for name, value in read_state(weights).items() if name.partition(".")[0] in wanted}
    counters = {name: torch.tensor(0) for name in layers.state_dict() if name.endswith(".num_batches_tracked")}
    assign_strictly(
        layers,
        counters | state,
        weights,
        stated=f"of torchvision's {backbone}",
        remedy=f"Name the file of that backbone's weights, or the backbone that the file is for, in [{section}].",
    )
    return layers


def _named(section: Section, backbone: str, weights: Path | None) -> Path:
    """Return the file of the weights. Raises PretrainedError if none is named or it does not exist."""
    if weights is None or not weights.is_file():
        raise PretrainedError(_missing(section, backbone, weights))
    return weights


def _missing(section: Section, backbone: str, weights: Path | None) -> str:
    source = (
        efficientnet_lite0.SOURCE
        if backbone == efficientnet_lite0.NAME
        else f"download {get_model_weights(backbone)['DEFAULT'].url}"
    )
    said = f"names the file {weights}, which is not there" if weights else "names no file of its weights"
    remedy = {
        "teacher": "name the file (`weights` in [teacher], or `--teacher-weights`), or train without a teacher "
        "(`weight = 0`, or `--no-teacher`)",
        "student": "name the file (`weights` in [student]), or leave it out and start from random weights",
    }[section]
    return (
        f"The recipe takes a trained {backbone} as {section} and {said}. Nothing is downloaded here: {source} and "
        f"{remedy}."
    )


def _widen_first(state: dict[str, Tensor], options: StudentOptions, backbone: nn.Module) -> None:
    """Convert the first layer's weights for RGB to weights for the student's inputs, in place.

    The weights for the noise are the student's random ones, or those for the image. For a grey noise map, which stands
    for three equal channels, they are the sum over the image's channels.
    """
    path, layer = first_convolution(options.backbone, backbone)
    name = f"{path}.weight"
    image, random = state[name], layer.weight.detach()
    noise = random if options.inputs in {"eps", "dire"} else random[:, 3:]
    if options.noise_channels == "pretrained":
        noise = image.sum(dim=1, keepdim=True) if options.inputs == "image+grey_eps" else image
    parts = {"image": (image,), "eps": (noise,), "dire": (noise,)}.get(options.inputs, (image, noise))
    state[name] = torch.cat(parts, dim=1)
