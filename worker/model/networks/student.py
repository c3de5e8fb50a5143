"""The DistilDIRE student: a torchvision backbone that reads six channels, the image and its first-step noise.

Students that read only a part of these (`StudentConfig.inputs`) show what each part contributes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its conventional name

from worker.model.cards.schema import Inputs, StudentConfig
from worker.model.networks.backbones import get_model, list_models, models

INPUT_CHANNELS: dict[Inputs, int] = {"image+eps": 6, "eps": 3, "image": 3, "image+grey_eps": 4, "dire": 3}
HEAD_NAMES = frozenset({"avgpool", "fc", "classifier", "head", "heads"})
"""The names that torchvision's classifiers give the layers after the feature map."""


@dataclass(frozen=True)
class StudentOutput:
    """The student's output for a batch, float32: `logit` (B, 1), higher for "fake", and `feature` (B, C, h, w)."""

    logit: Tensor
    feature: Tensor


class Student(nn.Module):
    """A backbone without pooling and classifier, then a linear head on the mean feature. Randomly initialised.

    `channels`: the number of channels of its feature map.

    Raises:
        ValueError: torchvision has no such classifier, or it has no feature map (B, C, h, w).
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.input_size, self.inputs = config.input_size, config.inputs
        self.student_backbone = feature_layers(config.backbone, INPUT_CHANNELS[config.inputs])
        self.channels = feature_channels(config.backbone, self.student_backbone)
        self.student_head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels, 1))

    def forward(self, x: Tensor, eps: Tensor) -> StudentOutput:
        """Classify images x in [-1, 1] with their noise maps eps; both (B, 3, S, S), float32.

        For a student that reads DIRE images, eps holds those, in [-1, 1].
        """
        read = _read(self.inputs, x, eps).contiguous(memory_format=torch.channels_last)
        if self.input_size is not None:
            read = F.interpolate(read, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False)
        feature = self.student_backbone(read)
        return StudentOutput(logit=self.student_head(feature), feature=feature)


def _read(inputs: Inputs, x: Tensor, eps: Tensor) -> Tensor:
    """Return the student's input, (B, 3, 4 or 6, S, S), the image's channels first."""
    if inputs == "image+eps":
        return torch.cat([x, eps], dim=1)
    if inputs == "image+grey_eps":
        return torch.cat([x, eps.mean(dim=1, keepdim=True)], dim=1)
    return x if inputs == "image" else eps


def feature_layers(name: str, channels: int = 3) -> nn.Sequential:
    """Build torchvision's classifier up to its feature map, keeping the names of its layers; random weights.

    Raises:
        ValueError: there is no classifier of that name, or it has no convolution that reads the image.
    """
    if name not in list_models(models):
        raise ValueError(f"torchvision has no image classifier named {name!r}")
    classifier = get_model(name, weights=None)
    layers = takewhile(lambda child: child[0] not in HEAD_NAMES, classifier.named_children())
    backbone = nn.Sequential(OrderedDict(layers))
    if channels != 3:
        _replace_first_convolution(name, backbone, channels)
    return backbone


def first_convolution(name: str, backbone: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the name and the layer of a backbone's first convolution. Raises ValueError if there is none."""
    for path, layer in backbone.named_modules():
        if isinstance(layer, nn.Conv2d):
            return path, layer
    raise ValueError(f"{name} has no convolution that reads the image")


def _replace_first_convolution(name: str, backbone: nn.Module, channels: int) -> None:
    """Replace the layer that reads RGB by one that reads so many channels."""
    path, layer = first_convolution(name, backbone)
    wide = nn.Conv2d(
        channels,
        layer.out_channels,
        kernel_size=layer.kernel_size,  # type: ignore[arg-type]  # Conv2d's own attributes are typed loosely
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )
    backbone.set_submodule(path, wide)


@torch.no_grad()
def feature_channels(name: str, backbone: nn.Module) -> int:
    """Count the channels of the feature map by running the backbone once on its own device."""
    parameter = next(backbone.parameters())
    channels = first_convolution(name, backbone)[1].in_channels
    probe = torch.zeros(1, channels, 128, 128, device=parameter.device)
    was_training = backbone.training
    backbone.eval()  # batch normalisation must not learn from the probe
    try:
        feature = backbone(probe)
    except (AssertionError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} cannot be cut after its feature map: {error}") from error
    finally:
        backbone.train(was_training)
    if not isinstance(feature, Tensor) or feature.ndim != 4:
        raise ValueError(f"{name} has no feature map of shape (B, C, h, w)")
    return int(feature.shape[1])
