"""Training that can be killed at any moment: whole checkpoints, and randomness that depends on the step alone.

Every step draws from `step_rng(seed, step)`, so no generator's state has to be saved and a run that was broken off
goes on exactly as if it had not been.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from shared.errors import DistildireError

log = logging.getLogger(__name__)
REPORT_EVERY = 25


class CheckpointMismatchError(DistildireError):
    """The checkpoint is of a training run with other settings."""


class Trainer(Protocol):
    """What `train` drives. `fingerprint` names all settings that shape the result."""

    fingerprint: str

    def advance(self, step: int) -> float:
        """Do step number `step`, counted from 0, and return its loss."""

    def state(self) -> dict[str, Any]:
        """Return all that later steps depend on: weights, averages, optimizer."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Return the generator of one step, independent of those of all other steps."""
    return np.random.default_rng([seed, step])


def train(trainer: Trainer, steps: int, checkpoint: Path, *, every: int) -> None:
    """Do the steps that `checkpoint` does not have yet, saving it after every `every` of them and at the end.

    Raises:
        CheckpointMismatchError: the checkpoint exists and was made with other settings.
    """
    done = _resume(trainer, checkpoint)
    first, started, recent = done, time.monotonic(), 0.0
    while done < steps:
        loss = trainer.advance(done)
        done += 1
        recent = loss if done == first + 1 else 0.95 * recent + 0.05 * loss
        if done % every == 0 or done == steps:
            _save(trainer, done, checkpoint)
        if done % REPORT_EVERY == 0 or done == steps:
            left = (time.monotonic() - started) / (done - first) * (steps - done)
            log.info("%s: step %d of %d, loss %.4f, %.0f s left", checkpoint.stem, done, steps, recent, left)


def _resume(trainer: Trainer, checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    if saved["fingerprint"] != trainer.fingerprint:
        raise CheckpointMismatchError(f"{checkpoint} was made with {saved['fingerprint']}, not {trainer.fingerprint}")
    trainer.restore(saved["state"])
    done: int = saved["step"]
    log.info("%s: goes on after step %d", checkpoint.stem, done)
    return done


def _save(trainer: Trainer, step: int, checkpoint: Path) -> None:
    """Replace the checkpoint in one move, so that a kill leaves the old one or the new one."""
    partial = checkpoint.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save({"fingerprint": trainer.fingerprint, "step": step, "state": trainer.state()}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(checkpoint)
