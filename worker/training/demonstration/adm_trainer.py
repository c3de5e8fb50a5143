"""Trains the ADM: the network learns to predict the noise in a noised photograph (DDPM, algorithm 1).

Two things differ from the paper. Half of every batch is noised only slightly (t below `LOW_STEPS`), because the
detector runs the network at t = 0, which uniformly drawn steps hardly ever include. The published weights are an
exponential moving average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from worker.model.cards.schema import UnetConfig
from worker.model.diffusion import linear_alpha_bars, q_sample
from worker.model.networks.unet import AdmUnet
from worker.training.demonstration.photographs import Pixels, random_crops, to_unit
from worker.training.loop.checkpointing import step_rng, warmed_cosine

LOW_STEPS = 100


@dataclass(frozen=True)
class AdmPlan:
    """How to train an ADM.

    The learning rate rises over `warmup` steps, then falls along a cosine that reaches zero at `decay_steps`. It does
    not depend on `steps`, so a run can be extended. It may end above zero, because the average of the weights smooths
    the noise that remains. `compiled`: run the network through `torch.compile`, which takes a minute to start and is
    then three times as fast on a CPU. `bfloat16`: run it under autocast, with weights, loss and optimizer in float32.
    """

    steps: int
    decay_steps: int
    batch_size: int
    learning_rate: float = 6e-4
    warmup: int = 50
    ema_decay: float = 0.995
    diffusion_steps: int = 1000
    seed: int = 0
    bfloat16: bool = True
    compiled: bool = True


@dataclass(eq=False)
class AdmTrainer:
    """One ADM in training on photographs, (height, width, 3) uint8 each: a `checkpointing.Trainer`.

    `build` creates it. `average`: the moving average of the weights, by name. `forward`: the network, compiled if the
    plan says so. `alpha_bars`: (T,), of the diffusion.
    """

    fingerprint: str
    plan: AdmPlan
    image_size: int
    photographs: Sequence[Pixels]
    unet: AdmUnet
    forward: nn.Module
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    alpha_bars: Tensor

    @classmethod
    def build(cls, config: UnetConfig, image_size: int, photographs: Sequence[Pixels], plan: AdmPlan) -> Self:
        """Start an ADM from random weights, drawn with the plan's seed."""
        torch.manual_seed(plan.seed)
        unet = AdmUnet(config, image_size).to(memory_format=torch.channels_last)
        forward: nn.Module = torch.compile(unet) if plan.compiled else unet  # type: ignore[assignment]
        return cls(
            fingerprint=f"{replace(plan, steps=0)} {config!r} {image_size} {len(photographs)}",
            plan=plan,
            image_size=image_size,
            photographs=photographs,
            unet=unet,
            forward=forward,
            average={name: value.clone() for name, value in unet.state_dict().items()},
            optimizer=torch.optim.AdamW(unet.parameters(), lr=plan.learning_rate, weight_decay=1e-4),
            alpha_bars=torch.from_numpy(linear_alpha_bars(plan.diffusion_steps)).float(),
        )

    def advance(self, step: int) -> float:
        """Run one step of the optimizer and update the moving average; return the mean squared error of eps."""
        x, t, noise = self.draw(step)
        for group in self.optimizer.param_groups:
            group["lr"] = warmed_cosine(self.plan.learning_rate, self.plan.warmup, self.plan.decay_steps, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.bfloat16):
            noised = q_sample(x, noise, self.alpha_bars[t][:, None, None, None])
            predicted = self.forward(noised, t)[:, :3]
        loss = (predicted.float() - noise).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self._update_average(step)
        return float(loss.item())

    def state(self) -> dict[str, Any]:
        """Return the weights, their average and the optimizer."""
        return {"unet": self.unet.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the values that `state` returned."""
        self.unet.load_state_dict(state["unet"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw x in [-1, 1] and eps, (B, 3, S, S) float32 each, and t (B,)."""
        rng, count = step_rng(self.plan.seed, step), self.plan.batch_size
        crops = random_crops(self.photographs, count, self.image_size, rng)
        t = np.where(
            np.arange(count) < count // 2,
            rng.integers(LOW_STEPS, size=count),
            rng.integers(self.plan.diffusion_steps, size=count),
        )
        x = to_unit(crops)
        noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
        return x, torch.from_numpy(t), noise

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        """Update the average, faster in early steps, because otherwise the random start would stay in it."""
        decay = min(self.plan.ema_decay, (1 + step) / (10 + step))
        for name, value in self.unet.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
