"""A training that is killed goes on as if it had not been."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_training import TINY_PLAN, TINY_SIZE, TINY_UNET
from worker.atomic_files import DiskFullError
from worker.training.demonstration.adm_trainer import AdmTrainer
from worker.training.demonstration.photographs import Pixels
from worker.training.loop.checkpointing import (
    CheckpointError,
    CheckpointMismatchError,
    check_fingerprint,
    step_rng,
    train,
)


class KilledAtStepFive(AdmTrainer):
    """Dies as by `kill -9` in the middle of step 5; the last checkpoint is of step 4."""

    def advance(self, step: int) -> float:
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().advance(step)


def _train_until_killed(pictures: list[Pixels], checkpoint: Path) -> None:
    torch.set_num_threads(1)
    train(KilledAtStepFive.build(TINY_UNET, TINY_SIZE, pictures, TINY_PLAN), TINY_PLAN.steps, checkpoint, every=2)


def _trained(pictures: list[Pixels], checkpoint: Path, seed: int = TINY_PLAN.seed) -> AdmTrainer:
    trainer = AdmTrainer.build(TINY_UNET, TINY_SIZE, pictures, replace(TINY_PLAN, seed=seed))
    train(trainer, TINY_PLAN.steps, checkpoint, every=2)
    return trainer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums have another order, and other last digits, on another number of threads."""
    torch.set_num_threads(1)


def assert_equal_states(left: dict[str, Any], right: dict[str, Any]) -> None:
    for part in ("unet", "average"):
        assert all(torch.equal(value, right[part][name]) for name, value in left[part].items())


def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(pictures: list[Pixels], tmp_path: Path) -> None:
    broken = tmp_path / "broken.checkpoint"
    process = multiprocessing.get_context("spawn").Process(target=_train_until_killed, args=(pictures, broken))
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    assert torch.load(broken, weights_only=True)["step"] == 4
    resumed = _trained(pictures, broken)
    assert_equal_states(resumed.state(), _trained(pictures, tmp_path / "unbroken.checkpoint").state())


def test_the_seed_decides_the_weights(pictures: list[Pixels], tmp_path: Path) -> None:
    first, again = (_trained(pictures, tmp_path / name).state() for name in ("first.checkpoint", "again.checkpoint"))
    assert_equal_states(first, again)
    other = _trained(pictures, tmp_path / "other.checkpoint", seed=8).state()
    assert not torch.equal(first["unet"]["out.2.weight"], other["unet"]["out.2.weight"])


def test_a_finished_training_does_no_step_more(pictures: list[Pixels], tmp_path: Path) -> None:
    done = _trained(pictures, tmp_path / "adm.checkpoint").state()
    assert_equal_states(done, _trained(pictures, tmp_path / "adm.checkpoint").state())


def test_a_checkpoint_of_other_settings_is_refused(pictures: list[Pixels], tmp_path: Path) -> None:
    _trained(pictures, tmp_path / "adm.checkpoint")
    with pytest.raises(CheckpointMismatchError, match="seed=8"):
        _trained(pictures, tmp_path / "adm.checkpoint", seed=8)


def test_a_damaged_checkpoint_is_told_with_what_to_do(pictures: list[Pixels], tmp_path: Path) -> None:
    checkpoint = tmp_path / "adm.checkpoint"
    _trained(pictures, checkpoint)
    sound = checkpoint.read_bytes()
    for damaged in (sound[: len(sound) // 2], b"", b"no checkpoint"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"adm\.checkpoint is damaged.*remove it"):
            check_fingerprint(checkpoint, "any")
    torch.save([1], checkpoint)
    with pytest.raises(CheckpointError):
        check_fingerprint(checkpoint, "any")


def test_a_training_can_be_extended(pictures: list[Pixels], tmp_path: Path) -> None:
    checkpoint = tmp_path / "adm.checkpoint"
    _trained(pictures, checkpoint)
    longer = AdmTrainer.build(TINY_UNET, TINY_SIZE, pictures, replace(TINY_PLAN, steps=8))
    train(longer, 8, checkpoint, every=2)
    assert torch.load(checkpoint, weights_only=True)["step"] == 8


class Unsaveable(AdmTrainer):
    """Its second checkpoint breaks off while it is written."""

    saves = 0

    def state(self) -> dict[str, Any]:
        self.saves += 1
        return super().state() | ({"lambda": lambda: None} if self.saves > 1 else {})


def test_a_checkpoint_that_breaks_off_leaves_the_one_before(pictures: list[Pixels], tmp_path: Path) -> None:
    checkpoint = tmp_path / "adm.checkpoint"
    with pytest.raises(Exception, match="lambda"):
        train(Unsaveable.build(TINY_UNET, TINY_SIZE, pictures, TINY_PLAN), TINY_PLAN.steps, checkpoint, every=2)
    assert torch.load(checkpoint, weights_only=True)["step"] == 2


def test_steps_draw_independently() -> None:
    draws = [step_rng(seed, step).integers(1 << 40) for seed in (0, 1) for step in (0, 1, 2)]
    assert len(set(draws)) == 6
    assert np.array_equal(step_rng(3, 4).random(5), step_rng(3, 4).random(5))


def test_a_full_disk_leaves_the_checkpoint_before_and_work_goes_on(pictures: list[Pixels], tmp_path: Path) -> None:
    """The system refuses to let any file grow beyond a limit, as a full disk does."""
    checkpoint = tmp_path / "adm.checkpoint"
    _trained(pictures, checkpoint)
    longer = replace(TINY_PLAN, steps=8)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))
    try:
        with pytest.raises(DiskFullError, match="goes on from what is there"):
            train(AdmTrainer.build(TINY_UNET, TINY_SIZE, pictures, longer), 8, checkpoint, every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert torch.load(checkpoint, weights_only=True)["step"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["adm.checkpoint"]
    train(AdmTrainer.build(TINY_UNET, TINY_SIZE, pictures, longer), 8, checkpoint, every=2)
    assert torch.load(checkpoint, weights_only=True)["step"] == 8


def test_a_checkpoint_is_not_saved_more_often_than_asked(pictures: list[Pixels], tmp_path: Path) -> None:
    saved: list[int] = []

    class Watched(AdmTrainer):
        def state(self) -> dict[str, Any]:
            saved.append(1)
            return super().state()

    train(
        Watched.build(TINY_UNET, TINY_SIZE, pictures, TINY_PLAN), TINY_PLAN.steps, tmp_path / "a", every=1, pause=3600
    )
    assert len(saved) == 1  # at the end
    train(
        Watched.build(TINY_UNET, TINY_SIZE, pictures, TINY_PLAN), TINY_PLAN.steps, tmp_path / "b", every=1, keeps=False
    )
    assert not (tmp_path / "b").exists()
