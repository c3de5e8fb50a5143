"""Checkpoints: training can be killed at any moment, because randomness depends only on the step.

Every step draws from `step_rng(seed, step)`, so no generator's state has to be saved, and an interrupted run continues
as if it had never stopped. Checkpoints are written atomically.
"""

from __future__ import annotations

import io
import logging
import math
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from shared.errors import DistildireError
from worker.atomic_files import write_whole

log = logging.getLogger(__name__)
REPORT_EVERY = 25


class CheckpointError(DistildireError):
    """The checkpoint cannot be read."""


class CheckpointMismatchError(DistildireError):
    """The checkpoint is of a training run with other settings."""


class Trainer(Protocol):
    """What `train` runs. `fingerprint` names all settings that determine the result."""

    fingerprint: str

    def advance(self, step: int) -> float:
        """Do step number `step`, counted from 0, and return its loss."""

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on: weights, averages, optimizer."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the values that `state` returned."""


def step_rng(seed: int, step: int, *purpose: int) -> np.random.Generator:
    """Return the random generator of one step and purpose, independent of all others."""
    return np.random.default_rng([seed, step, *purpose])


def warmed_cosine(peak: float, warmup: int, end: int, step: int) -> float:
    """Return the learning rate of a step: it rises to `peak` over `warmup` steps and falls to zero at step `end`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, end - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(
    trainer: Trainer, steps: int, checkpoint: Path, *, every: int, pause: float = 0.0, keeps: bool = True
) -> None:
    """Run the steps that `checkpoint` does not include yet.

    The checkpoint is saved after every `every` of them, unless the last one is less than `pause` seconds old, and at
    the end. Of several processes that train together one saves and reports: the one that `keeps`.

    Raises:
        CheckpointError: the checkpoint exists and is damaged.
        CheckpointMismatchError: it was made with other settings.
        DiskFullError: the disk is too full for the checkpoint; the one before is still there.
    """
    done = _resume(trainer, checkpoint)
    first, started, recent = done, time.monotonic(), 0.0
    saved = started
    while done < steps:
        loss = trainer.advance(done)
        done += 1
        recent = loss if done == first + 1 else 0.95 * recent + 0.05 * loss
        if keeps and (done == steps or (done % every == 0 and time.monotonic() - saved >= pause)):
            _save(trainer, done, checkpoint)
            saved = time.monotonic()
        if keeps and (done % REPORT_EVERY == 0 or done == steps):
            left = (time.monotonic() - started) / (done - first) * (steps - done)
            log.info("%s: step %d of %d, loss %.4f, %.0f s left", checkpoint.stem, done, steps, recent, left)


def check_fingerprint(checkpoint: Path, fingerprint: str) -> None:
    """Refuse to continue from a checkpoint with other settings. A missing checkpoint is accepted.

    Raises:
        CheckpointError: it is damaged.
        CheckpointMismatchError: it was made with other settings.
    """
    if checkpoint.exists():
        _read_checkpoint(checkpoint, fingerprint)


def _resume(trainer: Trainer, checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    saved = _read_checkpoint(checkpoint, trainer.fingerprint)
    trainer.restore(saved["state"])
    done: int = saved["step"]
    log.info("%s: continues after step %d", checkpoint.stem, done)
    return done


def _read_checkpoint(checkpoint: Path, fingerprint: str) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu")
        known = str(saved["fingerprint"])
    except OSError:
        raise
    except Exception as error:  # reading a damaged pickle can raise any exception
        raise CheckpointError(
            f"{checkpoint} is damaged. Put a copy of it in its place; or remove it, and the new model's card if there "
            "is one: then the same command trains from the start with the noise maps that are there."
        ) from error
    if known != fingerprint:
        was, asked = known.split(", "), fingerprint.split(", ")
        raise CheckpointMismatchError(
            f"{checkpoint} was made with {', '.join(part for part in was if part not in asked)}, not "
            f"{', '.join(part for part in asked if part not in was)}. To go on with it, take back what changed; to "
            "train from the start, name another folder."
        )
    return saved


def _save(trainer: Trainer, step: int, checkpoint: Path) -> None:
    """Replace the checkpoint atomically, so that a kill leaves either the old one or the new one."""
    content = io.BytesIO()
    torch.save({"fingerprint": trainer.fingerprint, "step": step, "state": trainer.state()}, content)
    write_whole(checkpoint, content.getvalue())
