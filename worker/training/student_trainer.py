"""Stage 2: trains the student on image and noise, with a teacher's features as a second objective.

The loss is binary cross-entropy + λ · the mean squared error between the student's feature map and the frozen
teacher's (DistilDIRE, equation 3). After each epoch the student is evaluated on the validation pairs. The result of
training is the student with the best average precision.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from shared.errors import DistildireError
from worker.metrics.ranking import average_precision, roc_auc
from worker.model.networks.student import Student
from worker.model.networks.unet import DTYPES
from worker.model.verdicts.verdict import sigmoids
from worker.training.loop.checkpointing import step_rng, warmed_cosine
from worker.training.loop.distributed import ProcessGroup
from worker.training.loop.tensorboard import EventLog
from worker.training.pairs.batch_sampler import BatchSampler
from worker.training.pairs.cutmix import draw_mix, mixed
from worker.training.pairs.store import Batch, PairSource
from worker.training.pretrained import Teacher
from worker.training.recipe import StudentPlan

log = logging.getLogger(__name__)

RECALIBRATION_BATCHES = 20
PREDICTION_BATCH = 64
_CUTMIX, _NETWORK = 2, 3  # purpose numbers of a step's other random draws
_PARTS = ("loss", "classification", "distillation")


class DivergedError(DistildireError):
    """The loss is no longer finite. Lower the learning rate, lengthen the warm-up, or train in precision fp32.

    To start again with the existing noise maps, name another --out, and --pairs OLD_OUT/pairs.
    """


@dataclass(frozen=True)
class Setting:
    """The device and processes that train a student, and the folder for its curves; None: write no curves."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    curves: Path | None = None


class Distilled(nn.Module):
    """The student, and a 1×1 projection of its features to the teacher's number of channels if the numbers differ."""

    def __init__(self, student: Student, teacher: Teacher | None) -> None:
        super().__init__()
        self.student = student
        channels = student.channels
        differ = teacher is not None and teacher.channels != channels
        self.projection = nn.Conv2d(channels, teacher.channels, 1) if teacher is not None and differ else nn.Identity()

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return logit (B,) and feature map (B, C of the teacher, h, w) of images and noise maps (B, 3, S, S)."""
        output = self.student(x, eps)
        return output.logit[:, 0], self.projection(output.feature)


@dataclass(eq=False)
class StudentTrainer:
    """One student in training: a `checkpointing.Trainer`. `build` creates it.

    `forward`: the network wrapped for all processes. `history` has a row of metrics for each epoch; `best` has the
    epoch, average precision and weights of the best epoch.
    """

    fingerprint: str
    plan: StudentPlan
    pairs: PairSource
    validation: PairSource
    setting: Setting
    teacher: Teacher | None
    network: Distilled
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    sampler: BatchSampler
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    _sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0), init=False)
    _reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _ahead: dict[int, Future[Batch]] = field(default_factory=dict, init=False)
    _curves: EventLog | None = field(default=None, init=False)

    @classmethod
    def build(
        cls,
        student: Student,
        plan: StudentPlan,
        pairs: PairSource,
        validation: PairSource,
        *,
        fingerprint: str,
        teacher: Teacher | None = None,
        setting: Setting | None = None,
    ) -> Self:
        """Move the networks to their device and create the trainer."""
        setting = setting or Setting()
        device = setting.device
        teacher = None if teacher is None else teacher.to(device)
        network = Distilled(student, teacher).to(device).to(memory_format=torch.channels_last)
        return cls(
            fingerprint,
            plan,
            pairs,
            validation,
            setting,
            teacher,
            network,
            forward=setting.processes.wrap(network),
            optimizer=_optimizer(plan, network),
            scaler=torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16"),
            sampler=BatchSampler(pairs.labels, plan),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in an epoch."""
        return self.sampler.steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps of the optimizer in all epochs."""
        return self.plan.epochs * self.steps_per_epoch

    def advance(self, step: int) -> float:
        """Run one step of the optimizer, and the validation after the last step of an epoch; return the loss."""
        rate = learning_rate(self.plan, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(int(step_rng(self.plan.seed, step, _NETWORK, self.setting.processes.rank).integers(1 << 62)))
        losses = self.losses(self._batch(step))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses[0]).backward()  # type: ignore[no-untyped-call]  # torch publishes it so
        self.scaler.step(self.optimizer)
        self.scaler.update()
        means = self.setting.processes.mean(torch.stack([loss.detach() for loss in losses]))
        values: dict[str, float] = dict(zip(_PARTS, means.tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            raise DivergedError
        self._record(step, values | {"learning_rate": rate})
        if (step + 1) % self.steps_per_epoch == 0:
            self._end_epoch(step)
        return values["loss"]

    def state(self) -> dict[str, Any]:
        """Return weights, running statistics, optimizer, the metrics so far and the best student."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "best": self.best,
            "sums": self._sums,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the values that `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.best, self._sums = state["history"], state["best"], state["sums"]

    def close(self) -> None:
        """End the thread that reads ahead, and close the file of curves. The student stays usable."""
        self._reader.shutdown(cancel_futures=True)
        if self._curves is not None:
            self._curves.close()

    def best_student(self) -> Student:
        """Return the student of the best epoch, ready for use. All epochs must be done."""
        self.network.student.load_state_dict(self.best["student"])
        return self.network.student.eval()

    def recalibrate(self) -> None:
        """Replace the running statistics of batch normalisation by plain means, over pairs without CutMix.

        After few steps the running statistics still contain the random start, which can put all images in one class.
        """
        norms = [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]
        usual = [layer.momentum for layer in norms]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # in torch, this means the mean over all batches
        self.network.train()
        for number in range(RECALIBRATION_BATCHES):
            with torch.no_grad(), self._precision():
                batch = self._share(self.sampler.draw(self.steps + number))
                self.network.student(batch.x.to(self.setting.device), batch.eps.to(self.setting.device))
        for layer, momentum in zip(norms, usual, strict=True):
            layer.momentum = momentum

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss and its two parts, the second without its weight λ."""
        batch = _on(batch, self.setting.device)
        self.forward.train()
        with self._precision():
            logit, feature = self.forward(batch.x, batch.eps)
            target = None if self.teacher is None else self.teacher(batch)
        weight = torch.tensor(self.plan.pos_weight, device=logit.device)
        classification = F.binary_cross_entropy_with_logits(logit.float(), batch.fake, pos_weight=weight)
        if self.teacher is None or target is None:
            return classification, classification, torch.zeros_like(classification)
        distillation = F.mse_loss(_sized(feature.float(), target), target.float())
        return classification + self.teacher.options.weight * distillation, classification, distillation

    def _end_epoch(self, step: int) -> None:
        """Evaluate the student on the validation split, and keep it if it is the best so far."""
        if self.plan.recalibrate:
            self.recalibrate()
        student, fake = self.network.student, self.validation.labels
        scores = probabilities(student.eval(), self.validation, self.setting)
        found = {
            "validation_average_precision": average_precision(scores, fake),
            "validation_roc_auc": roc_auc(scores, fake),
            "validation_accuracy": float(((scores >= 0.5) == fake).mean()),
        }
        means = {part: total / self.steps_per_epoch for part, total in self._sums.items()}
        self._sums = dict.fromkeys(_PARTS, 0.0)
        epoch = (step + 1) // self.steps_per_epoch
        self.history.append({"epoch": epoch} | means | found)
        if self._curves is not None:
            self._curves.write(step + 1, found)
        precision = found["validation_average_precision"]
        if not self.best or precision > self.best["average_precision"]:
            weights = {name: value.detach().cpu().clone() for name, value in student.state_dict().items()}
            self.best = {"epoch": epoch, "average_precision": precision, "student": weights}
        if self.setting.processes.is_main:
            log.info("epoch %d of %d: validation AP %.4f", epoch, self.plan.epochs, precision)

    def _record(self, step: int, values: dict[str, float]) -> None:
        for part in _PARTS:
            self._sums[part] += values[part]
        if self.setting.curves is not None and self.setting.processes.is_main:
            self._curves = self._curves or EventLog(self.setting.curves, first_step=step)
            self._curves.write(step, values)

    def _precision(self) -> torch.autocast:
        precision = self.plan.precision
        return torch.autocast(self.setting.device.type, DTYPES[precision], enabled=precision != "fp32")

    def _batch(self, step: int) -> Batch:
        """Return a step's batch, and let the next one be read in the meantime."""
        current = self._ahead.pop(step, None) or self._reader.submit(self._load, step)
        self._ahead = {step + 1: self._reader.submit(self._load, step + 1)}
        return current.result()

    def _load(self, step: int) -> Batch:
        """Read this process's share of a step's batch and apply CutMix. All processes make the same random draws."""
        drawn = self.sampler.draw(step)
        batch = self._share(drawn)
        rng = step_rng(self.plan.seed, step, _CUTMIX)
        if rng.random() >= self.plan.cutmix_probability:
            return batch
        mix = draw_mix(len(drawn), self.plan.cutmix, rng)
        return mixed(batch, self._share(drawn[mix.partner]), mix)

    def _share(self, drawn: NDArray[np.int64]) -> Batch:
        """Read this process's share of the pairs of these numbers."""
        return self.pairs.load(drawn[self.setting.processes.rank :: self.setting.processes.size])


@torch.no_grad()
def probabilities(student: Student, pairs: PairSource, setting: Setting | None = None) -> NDArray[np.float64]:
    """Return every pair's probability of being fake, (N,); several processes share the work.

    Raises:
        DivergedError: a logit is NaN.
    """
    setting = setting or Setting()
    count, processes = len(pairs.labels), setting.processes
    mine = np.arange(processes.rank, count, processes.size)
    known = np.empty(len(mine))
    for start in range(0, len(mine), PREDICTION_BATCH):
        index = mine[start : start + PREDICTION_BATCH]
        batch = _on(pairs.load(index), setting.device)
        known[start : start + len(index)] = student(batch.x, batch.eps).logit[:, 0].double().cpu().numpy()
    logits = joined(processes.gather(known))
    if np.isnan(logits).any():
        raise DivergedError
    return sigmoids(logits)


def joined(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Merge the values of all processes, each of which had every n-th pair."""
    found = np.empty(sum(map(len, parts)))
    for rank, part in enumerate(parts):
        found[rank :: len(parts)] = part
    return found


def learning_rate(plan: StudentPlan, step: int, steps: int) -> float:
    """Return the learning rate of step `step` of `steps`, as the plan's schedule has it."""
    if plan.schedule == "constant" and step >= plan.warmup_steps:
        return plan.learning_rate
    return warmed_cosine(plan.learning_rate, plan.warmup_steps, steps, step)


def _optimizer(plan: StudentPlan, network: nn.Module) -> torch.optim.Optimizer:
    kind: type[torch.optim.Adam] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.optimizer]
    return kind(network.parameters(), lr=plan.learning_rate, betas=(plan.beta1, 0.999), weight_decay=plan.weight_decay)


def _on(batch: Batch, device: torch.device) -> Batch:
    dire = None if batch.dire is None else batch.dire.to(device)
    return Batch(batch.x.to(device), batch.eps.to(device), dire, batch.fake.to(device))


def _sized(feature: Tensor, target: Tensor) -> Tensor:
    """Resize features (B, C, h, w) to the height and width of the teacher's features."""
    if feature.shape[-2:] == target.shape[-2:]:
        return feature
    return F.interpolate(feature, size=target.shape[-2:], mode="bilinear", align_corners=False)
