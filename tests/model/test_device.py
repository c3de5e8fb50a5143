"""What an analysis worker asks of its device."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.inference import device
from worker.inference.batcher import DeviceLostError, DeviceMemoryError
from worker.inference.device import Device, settle_batch
from worker.model import Detector, load_model
from worker.model.detector import Detection
from worker.model.loading import choose_device


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


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_float32_is_float32_wherever_a_cuda_device_was_chosen(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device(name).type == "cuda"
    assert not torch.backends.cudnn.allow_tf32


def test_a_quick_device_is_given_full_batches_after_one_was_tried(
    detector: Detector, passes: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "PASS_SECONDS", 1000.0)
    assert settle_batch(detector, 5).batch == 5
    assert passes == [1, 5]  # after the self-test, which is no batch


def test_a_slow_device_is_given_single_images(detector: Detector, passes: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "PASS_SECONDS", 1e-9)
    assert settle_batch(detector, 8).batch == 1
    assert passes == [1]  # not eight: with the published model on a CPU that would take minutes


def test_a_batch_that_does_not_fit_into_memory_is_halved(detector: Detector, monkeypatch: pytest.MonkeyPatch):
    usual = detector.detect

    def detect(x: Tensor) -> Detection:
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return usual(x)

    monkeypatch.setattr(detector, "detect", detect)
    monkeypatch.setattr(device, "PASS_SECONDS", 1000.0)
    assert settle_batch(detector, 8).batch == 2


def test_a_warm_device_says_how_long_a_full_pass_takes(detector: Detector):
    began = time.monotonic()
    pace = settle_batch(detector, 4)
    assert 0 < pace.pass_seconds <= 4 * (time.monotonic() - began)


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), DeviceMemoryError),
        (torch.AcceleratorError("CUDA error: out of memory"), DeviceMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), DeviceMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), DeviceMemoryError),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceLostError),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), DeviceLostError),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), RuntimeError),
    ],
)
def test_what_torch_says_is_told_apart(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, meant: type[Exception]
):
    def fail(_: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(detector, "noise_map", fail)
    side = detector.card.image_size
    with pytest.raises(meant) as caught:
        Device(detector)([np.zeros((3, side, side), np.float32)], lambda: None)
    assert type(caught.value) is meant
