"""`distildire train` that dies as by `kill -9`: `python -m tests.support.killed_training MOMENT ARGUMENT…`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.cli import main
from worker.training.pairs import store
from worker.training.pairs.store import PairStore
from worker.training.student_trainer import StudentTrainer

MOMENTS = ("between shards", "within a step", "while a checkpoint is written")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(moment: str) -> None:
    """Have the process die when it comes to its moment."""
    computed, advance, replace = PairStore._computed, StudentTrainer.advance, Path.replace
    written: list[Path] = []

    def computed_or_dead(of: PairStore, items: Sequence[store._Item], maker: store.NoiseMaker) -> bytes:
        if any(of.folder.parent.rglob("*.safetensors")):
            _die()
        return computed(of, items, maker)

    def advance_or_dead(trainer: StudentTrainer, step: int) -> float:
        loss = advance(trainer, step)
        if step == 5:  # the weights have changed, the checkpoint has not
            _die()
        return loss

    def replace_or_dead(path: Path, target: Path) -> Path:
        if target.suffix == ".checkpoint":
            written.append(path)
            if len(written) == 4:  # the new one is whole, the old one still in its place
                _die()
        return replace(path, target)

    if moment == MOMENTS[0]:
        PairStore._computed = computed_or_dead  # type: ignore[method-assign, assignment]
    elif moment == MOMENTS[1]:
        StudentTrainer.advance = advance_or_dead  # type: ignore[method-assign, assignment]
    else:
        Path.replace = replace_or_dead  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    _arm(sys.argv[1])
    main(sys.argv[2:])
