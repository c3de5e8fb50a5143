"""What an analysis worker asks of its device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker import device
from worker.device import settle_batch
from worker.model import Detector, load_model
from worker.model.detector import Detection


@pytest.fixture
def detector(tiny_files: Path) -> Detector:
    return load_model("TINY", device="cpu", precision="fp32", models_dir=tiny_files)


@pytest.fixture
def passes(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the detector ran."""
    sizes: list[int] = []
    usual = detector.detect

    def detect(x: Tensor) -> Detection:
        sizes.append(len(x))
        return usual(x)

    monkeypatch.setattr(detector, "detect", detect)
    return sizes


def test_a_quick_device_is_given_full_batches_after_one_was_tried(
    detector: Detector, passes: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "PASS_SECONDS", 1000.0)
    assert settle_batch(detector, 5) == 5
    assert passes == [1, 1, 5]


def test_a_slow_device_is_given_single_images(detector: Detector, passes: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "PASS_SECONDS", 1e-9)
    assert settle_batch(detector, 8) == 1
    assert passes == [1, 1]  # not eight: with the published model on a CPU that would take minutes


def test_a_batch_that_does_not_fit_into_memory_is_halved(detector: Detector, monkeypatch: pytest.MonkeyPatch):
    usual = detector.detect

    def detect(x: Tensor) -> Detection:
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return usual(x)

    monkeypatch.setattr(detector, "detect", detect)
    monkeypatch.setattr(device, "PASS_SECONDS", 1000.0)
    assert settle_batch(detector, 8) == 2


def test_a_pass_that_holds_the_interpreters_lock_is_ended_too():
    program = (
        "import ctypes, worker.device as device; device._LOCKED_SECONDS = 0.2\n"
        "with device.pass_limit(0.2)():\n"
        "    ctypes.PyDLL(None).sleep(60)\n"  # as a driver would: it keeps the lock
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
