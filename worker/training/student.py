"""Training of the student on image and noise: binary cross-entropy, with as many photographs as fakes in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from worker.model.config import StudentConfig
from worker.model.student import Student
from worker.training.examples import Examples
from worker.training.resumable import step_rng

Inputs = Literal["both", "rgb", "eps"]
"""What the student may look at. The last two are controls: they tell what the other half is worth."""

RECALIBRATION_BATCHES = 20
PREDICTION_BATCH = 64


@dataclass(frozen=True)
class StudentPlan:
    """How to train a student. The learning rate falls linearly to zero."""

    steps: int
    batch_size: int
    learning_rate: float = 2e-3
    seed: int = 0
    inputs: Inputs = "both"


class StudentTrainer:
    """One student in training. A `resumable.Trainer`."""

    def __init__(self, config: StudentConfig, examples: Examples, plan: StudentPlan) -> None:
        torch.manual_seed(plan.seed)
        self.fingerprint = f"{plan} {config!r} {len(examples)}"
        self.plan, self.examples = plan, examples
        self.student = Student(config).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=plan.learning_rate, weight_decay=1e-2)
        self._fakes = np.flatnonzero(examples.fake.numpy())
        self._photographs = np.flatnonzero(~examples.fake.numpy())

    def advance(self, step: int) -> float:
        """Do one step of the optimizer; return the cross-entropy."""
        index = self._draw(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * (1 - step / self.plan.steps)
        self.student.train()
        logit = self.student(*inputs(self.examples, index, self.plan.inputs)).logit[:, 0]
        loss = F.binary_cross_entropy_with_logits(logit, self.examples.fake[index].float())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch publishes it so
        self.optimizer.step()
        return float(loss.item())

    def state(self) -> dict[str, Any]:
        """Return the weights, with their running statistics, and the optimizer."""
        return {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def recalibrate(self) -> Student:
        """Replace the running statistics of batch normalisation by plain means, and return the student for use.

        After few steps the running ones still hold the random start, which alone can put all images in one class.
        """
        norms = [layer for layer in self.student.modules() if isinstance(layer, nn.BatchNorm2d)]
        usual = [layer.momentum for layer in norms]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # torch's way to say: the mean over all batches
        self.student.train()
        for batch in range(RECALIBRATION_BATCHES):
            self.student(*inputs(self.examples, self._draw(self.plan.steps + batch), self.plan.inputs))
        for layer, momentum in zip(norms, usual, strict=True):
            layer.momentum = momentum
        return self.student.eval()

    def _draw(self, step: int) -> NDArray[np.int64]:
        rng, half = step_rng(self.plan.seed, step), self.plan.batch_size // 2
        return np.concatenate([rng.choice(self._fakes, half), rng.choice(self._photographs, half)])


def inputs(examples: Examples, index: NDArray[np.int64] | slice, looked_at: Inputs) -> tuple[Tensor, Tensor]:
    """Return (x, eps) of some examples as float32; what a control may not look at is zero."""
    x, eps = examples.x[index].float(), examples.eps[index].float()
    if looked_at == "rgb":
        eps = torch.zeros_like(eps)
    if looked_at == "eps":
        x = torch.zeros_like(x)
    return x, eps


@torch.no_grad()
def probabilities(student: Student, examples: Examples, looked_at: Inputs = "both") -> NDArray[np.float64]:
    """Return the probability of being fake of every example, (N,)."""
    starts = range(0, len(examples), PREDICTION_BATCH)
    batches = (inputs(examples, slice(start, start + PREDICTION_BATCH), looked_at) for start in starts)
    logits = torch.cat([student(x, eps).logit[:, 0] for x, eps in batches])
    found: NDArray[np.float64] = torch.sigmoid(logits.double()).numpy()
    return found
