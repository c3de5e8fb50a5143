"""The ADM U-Net: it predicts the noise in an image (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs").

Module names are those of the published checkpoints, so loading one strictly also checks the architecture. Shapes are
written (B, C, H, W). Everything runs in the `channels_last` memory format, in which the convolutions are fastest.
"""

from __future__ import annotations

import math
from typing import Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its conventional name

from worker.model.cards.schema import NORM_GROUPS, Format, UnetConfig

DTYPES: dict[Format, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Resample = Literal["up", "down"]
_Layer = TypeVar("_Layer", nn.Conv1d, nn.Conv2d)


class AdmUnet(nn.Module):
    """eps, sigma = U(x, t). `image_size` is the side of the square images that it was trained for.

    A new network has ADM's initialisation: the last convolution of every residual branch, and of the network, is zero.
    """

    def __init__(self, config: UnetConfig, image_size: int) -> None:
        super().__init__()
        if image_size % 2 ** (len(config.channel_mult) - 1):
            raise ValueError(f"image_size {image_size} cannot be halved {len(config.channel_mult) - 1} times")
        self.config = config
        self.image_size = image_size
        width = config.num_channels
        emb_channels = 4 * width
        self.time_embed = nn.Sequential(
            nn.Linear(width, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

        channels, side = config.channel_mult[0] * width, image_size
        self.input_blocks = nn.ModuleList([TimestepSequential(_conv3x3(3, channels))])
        skips = [channels]
        for level, multiple in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(_stage(config, channels, multiple * width, side))
                channels = multiple * width
                skips.append(channels)
            if level + 1 < len(config.channel_mult):
                self.input_blocks.append(TimestepSequential(_resampler(config, channels, "down")))
                side //= 2
                skips.append(channels)

        self.middle_block = TimestepSequential(
            _res_block(config, channels, channels),
            Attention(channels, config.heads(channels)),
            _res_block(config, channels, channels),
        )

        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.num_res_blocks + 1):
                stage = _stage(config, channels + skips.pop(), multiple * width, side)
                channels = multiple * width
                if level and index == config.num_res_blocks:
                    stage.append(_resampler(config, channels, "up"))
                    side *= 2
                self.output_blocks.append(stage)

        out = _zeroed(_conv3x3(channels, 6 if config.learn_sigma else 3))
        self.out = nn.Sequential(nn.GroupNorm(NORM_GROUPS, channels), nn.SiLU(), out)

    @property
    def dtype(self) -> torch.dtype:
        """The type that the body computes in; `time_embed` and `out` always compute in float32."""
        return next(self.middle_block.parameters()).dtype

    def set_precision(self, dtype: torch.dtype) -> Self:
        """Convert the body to `dtype`. `time_embed` and `out`, which affect the result most, stay in float32."""
        for body in (self.input_blocks, self.middle_block, self.output_blocks):
            body.to(dtype)
        return self

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise.

        Args:
            x: (B, 3, S, S), float32, the image at step t, in [-1, 1] at t = 0.
            t: (B,), integer, the step's index in the *original*, unspaced diffusion.

        Returns:
            (B, 6, S, S), or (B, 3, S, S) without `learn_sigma`, float32. Channels 0 to 2 are eps.
        """
        emb = self.time_embed(timestep_embedding(t, self.config.num_channels)).to(self.dtype)
        h = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        skips = []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        out: Tensor = self.out(h.float())
        return out


def timestep_embedding(t: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Return (B, channels) float32: cosines, then sines, of t at frequencies in geometric series (DDPM, appendix B)."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t[:, None].float() * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepSequential(nn.Sequential):
    """Layers in sequence. Those that depend on the time step get its embedding."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]  # one input more than Sequential's
        """(B, C, H, W), (B, E) -> (B, C', H', W')."""
        for layer in self:
            h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
        return h


class ResBlock(nn.Module):
    """BigGAN's residual block, modulated by the time step. It may halve or double H and W."""

    def __init__(
        self, in_channels: int, out_channels: int, emb_channels: int, *, scale_shift: bool, resample: Resample | None
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = _Resize(resample) if resample else nn.Identity()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, in_channels), nn.SiLU(), _conv3x3(in_channels, out_channels)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, (1 + scale_shift) * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, out_channels),
            nn.SiLU(),
            nn.Identity(),  # in place of ADM's dropout, so that the convolution keeps its published index, 3
            _zeroed(_conv3x3(out_channels, out_channels)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C, H, W), (B, E) -> (B, C', H', W')."""
        in_norm, _, in_conv = self.in_layers
        out_norm, _, _, out_conv = self.out_layers
        h = in_conv(self.resample(F.silu(in_norm(x))))
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = torch.addcmul(shift, out_norm(h), 1 + scale)
        else:
            h = out_norm(h + emb)
        out: Tensor = self.skip_connection(self.resample(x)) + out_conv(F.silu(h))
        return out


class Attention(nn.Module):
    """Self-attention between all pixels. Queries, keys and values lie head by head ("legacy order" in the source)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        batch, channels, height, width = x.shape
        # In channels_last, each pixel is a row already, so the kernel-1 convolutions are linear layers on a view.
        rows: Tensor = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        qkv = F.linear(rows, self.qkv.weight[:, :, 0], self.qkv.bias)
        q, k, v = qkv.view(batch, height * width, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H*W, C / heads)
        rows = attended.transpose(1, 2).reshape(batch, height * width, channels)
        rows = F.linear(rows, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        out: Tensor = x + rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return out


class _Resize(nn.Module):
    """Halve (mean of 2 x 2) or double (nearest) the sides, without parameters."""

    def __init__(self, direction: Resample) -> None:
        super().__init__()
        self.direction = direction

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.direction == "down" else F.interpolate(x, scale_factor=2, mode="nearest")


class _ConvDownsample(nn.Module):
    """Halve the sides with a strided convolution (`resblock_updown = false`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.op(x)
        return y


class _ConvUpsample(nn.Module):
    """Double the sides, then convolve (`resblock_updown = false`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return y


def _stage(config: UnetConfig, in_channels: int, out_channels: int, side: int) -> TimestepSequential:
    """Return a residual block, followed by attention if feature maps of this side have it."""
    stage = TimestepSequential(_res_block(config, in_channels, out_channels))
    if side in config.attention_resolutions:
        stage.append(Attention(out_channels, config.heads(out_channels)))
    return stage


def _res_block(config: UnetConfig, in_channels: int, out_channels: int, resample: Resample | None = None) -> ResBlock:
    emb_channels = 4 * config.num_channels
    scale_shift = config.use_scale_shift_norm
    return ResBlock(in_channels, out_channels, emb_channels, scale_shift=scale_shift, resample=resample)


def _resampler(config: UnetConfig, channels: int, direction: Resample) -> nn.Module:
    if config.resblock_updown:
        return _res_block(config, channels, channels, direction)
    return _ConvDownsample(channels) if direction == "down" else _ConvUpsample(channels)


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _zeroed(layer: _Layer) -> _Layer:
    """Set a layer to zero, so that a new residual branch adds nothing and training is stable."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
