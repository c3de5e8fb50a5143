"""From a card's name to a detector that is ready to run; and the check of a model's files without running it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from worker.model.card import InstalledCard, ModelError, find_card
from worker.model.config import Format, ModelCard, WeightsFile
from worker.model.detector import Detector
from worker.model.diffusion import SpacedDiffusion
from worker.model.student import Student
from worker.model.unet import DTYPES, AdmUnet
from worker.model.weights import Algorithm, assign_strictly, check_digests, digest, read_state, stated_digests

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["auto"] | Format

_Network = TypeVar("_Network", bound=nn.Module)

_log = logging.getLogger(__name__)


def load_model(
    name: str, device: str = "auto", precision: Precision = "auto", models_dir: Path | str | None = None
) -> Detector:
    """Load a model by its card's name.

    Args:
        name: as in the card, such as "DISTILDIRE-V1".
        device: "cpu", "cuda", "cuda:1" …; "auto" takes CUDA where there is one.
        precision: number format of the U-Net; "auto" takes the card's, or else the fastest that the device computes
            natively: bfloat16, on older CUDA devices float16, on older processors float32. The student always computes
            in float32.
        models_dir: folder of cards and weights; by default the one that `DISTILDIRE_MODELS_DIR` names.

    Raises:
        ModelError: card or weights are missing, damaged, altered or do not fit, or the device is not there.
    """
    installed = find_card(name, Path(models_dir) if models_dir else None)
    target = choose_device(device)
    wanted = installed.card.precision if precision == "auto" and installed.card.precision else precision
    dtype = choose_dtype(wanted, target)
    sha256 = installed.card.student.sha256 or digest(installed.locate(installed.card.student), "sha256")
    unet, student = load_unet(installed), load_student(installed)
    return assemble(installed.card, unet, student, target, dtype, weights_sha256=sha256)


def assemble(
    card: ModelCard,
    unet: AdmUnet,
    student: Student,
    device: torch.device,
    dtype: torch.dtype,
    *,
    weights_sha256: str,
) -> Detector:
    """Make a detector of networks that have their weights: bring them to the device and to the U-Net's `dtype`."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # TF32 would make float32 a thousand times coarser, unasked
    networks = _settle(unet.set_precision(dtype), device), _settle(student, device)
    return Detector(card, SpacedDiffusion(card.diffusion), *networks, weights_sha256=weights_sha256)


def load_unet(installed: InstalledCard) -> AdmUnet:
    """Return the card's U-Net with its weights, on the CPU in float32. Raises ModelError."""
    unet = _unet_on_meta(installed)
    _load(installed, installed.card.adm, unet)
    return unet


def load_student(installed: InstalledCard) -> Student:
    """Return the card's student with its weights, on the CPU in float32. Raises ModelError."""
    student = _student_on_meta(installed)
    _load(installed, installed.card.student, student)
    return student


@dataclass(frozen=True)
class VerifiedFile:
    """A file that may be used: it fits the architecture and has every digest that its card states (`stated`)."""

    part: Literal["adm", "student"]
    path: Path
    size: int
    sha256: str
    stated: tuple[Algorithm, ...]


def verify(name: str, models_dir: Path | str | None = None) -> tuple[VerifiedFile, VerifiedFile]:
    """Check everything that loading the model needs, without keeping it.

    Raises:
        ModelError: what is wrong, with the file and the remedy.
    """
    installed = find_card(name, Path(models_dir) if models_dir else None)
    load_unet(installed)
    load_student(installed)
    return _verified("adm", installed, installed.card.adm), _verified("student", installed, installed.card.student)


def choose_device(name: str) -> torch.device:
    """Return the device of that name. Raises ModelError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"There is no device named {name!r}: use auto, cpu or cuda.") from error
    if device.type not in {"cpu", "cuda"}:
        raise ModelError(f"The device {name!r} is not supported: use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"The device {name!r} is not there: install its driver, or use the device auto or cpu.")
    return device


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the U-Net's number format.

    bfloat16 costs 1 to 2 % relative error of eps and is about three times as fast as float32, on a processor only if
    it has the instructions (AVX-512 BF16 or AMX); without them it is emulated, slower than float32.
    """
    if precision != "auto":
        if precision not in DTYPES:
            raise ModelError(f"The precision {precision!r} is not supported: use auto, {', '.join(DTYPES)}.")
        return DTYPES[precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def _unet_on_meta(installed: InstalledCard) -> AdmUnet:
    with torch.device("meta"):  # no memory, no random numbers: the file brings every tensor
        return AdmUnet(installed.card.adm, installed.card.image_size)


def _student_on_meta(installed: InstalledCard) -> Student:
    try:
        with torch.device("meta"):
            return Student(installed.card.student)
    except ValueError as error:
        raise ModelError(f"{installed.path}: student.backbone: {error}. Name another backbone.") from error


def _load(installed: InstalledCard, stated: WeightsFile, network: nn.Module) -> None:
    path = installed.locate(stated)
    if not stated_digests(stated):
        _log.warning("%s states no digest of %s: the file is used unchecked", installed.path, stated.weights)
    check_digests(path, stated)
    assign_strictly(network, read_state(path), path)


def _verified(part: Literal["adm", "student"], installed: InstalledCard, stated: WeightsFile) -> VerifiedFile:
    path = installed.locate(stated)
    sha256 = stated.sha256 or digest(path, "sha256")
    algorithms: tuple[Algorithm, ...] = tuple(name for name, _ in stated_digests(stated))
    return VerifiedFile(part, path, path.stat().st_size, sha256, algorithms)


def _settle(network: _Network, device: torch.device) -> _Network:
    return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
