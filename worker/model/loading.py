"""From a card's name to a detector that is ready to run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from worker.model.cards.registry import CardError, InstalledCard, ModelError, find_card
from worker.model.cards.schema import Format, ModelCard, WeightsFile
from worker.model.detector import Detector
from worker.model.diffusion import SpacedDiffusion
from worker.model.networks.student import Student
from worker.model.networks.unet import DTYPES, AdmUnet
from worker.model.weights.digests import identify, read_record, stated_digests, weights_sha256
from worker.model.weights.state_dicts import assign_strictly, read_state

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
        device: "cpu", "cuda", "cuda:1" …; "auto" uses CUDA if it is available.
        precision: number format of the U-Net; "auto" uses the card's, or else the fastest that the device supports
            natively: bfloat16, on older CUDA devices float16, on older processors float32. The student always computes
            in float32; if it reads DIRE images, so does the U-Net.
        models_dir: folder of cards and weights; by default the one that `DISTILDIRE_MODELS_DIR` names.

    Raises:
        CardError: there is no such card, but a wrong card that may be the one; or the card's backbone is unknown.
        AlteredError: the weights are not those that the card or their record describes.
        ModelError: card, weights or device are missing, the weights are damaged or do not fit, or the model cannot run
            in that precision.
    """
    installed = find_card(name, Path(models_dir) if models_dir else None)
    target, dtype = choose(installed.card, device, precision)
    unet, student = unet_on_meta(installed), untrained_student(installed)
    adm_sha256 = load_weights(installed, installed.card.adm, unet)
    student_sha256 = load_weights(installed, installed.card.student, student)
    sha256 = weights_sha256(adm_sha256, student_sha256)
    return assemble(installed.card, unet, student, target, dtype, weights_sha256=sha256, card_path=installed.path)


def assemble(
    card: ModelCard,
    unet: AdmUnet,
    student: Student,
    device: torch.device,
    dtype: torch.dtype,
    *,
    weights_sha256: str,
    card_path: Path | None = None,
) -> Detector:
    """Make a detector from networks with weights: move them to the device, and the U-Net to `dtype`."""
    networks = _settle(unet.set_precision(dtype), device), _settle(student, device)
    diffusion = SpacedDiffusion(card.diffusion)
    return Detector(card, diffusion, *networks, weights_sha256=weights_sha256, card_path=card_path)


def load_unet(installed: InstalledCard) -> AdmUnet:
    """Return the card's U-Net with its weights, on the CPU in float32. Raises ModelError."""
    unet = unet_on_meta(installed)
    load_weights(installed, installed.card.adm, unet)
    return unet


def unet_on_meta(installed: InstalledCard) -> AdmUnet:
    """Return the card's U-Net without weights."""
    with torch.device("meta"):  # needs no memory and no random numbers: every tensor comes from the file
        return AdmUnet(installed.card.adm, installed.card.image_size)


def untrained_student(installed: InstalledCard) -> Student:
    """Return the card's student with random weights. Raises CardError if there is no such backbone.

    The student is not built on the meta device: to draw normal numbers there, torch imports its compiler, which takes
    longer than drawing them on the CPU.
    """
    try:
        return Student(installed.card.student)
    except ValueError as error:
        raise CardError(f"{installed.path}: student.backbone: {error}. Name another backbone.") from error


def load_weights(installed: InstalledCard, stated: WeightsFile, network: nn.Module) -> str:
    """Check a file of the card, load its parameters into the network, and return the published file's SHA-256.

    Raises:
        ModelError: the file is missing, damaged or altered, or does not fit.
    """
    path = installed.locate(stated)
    if not stated_digests(stated) and read_record(path) is None:
        _log.warning("%s states no digest of %s: the file is used unchecked", installed.path, stated.weights)
    sha256 = identify(path, stated)
    assign_strictly(network, read_state(path), path)
    return sha256


def choose(card: ModelCard, device: str, precision: Precision) -> tuple[torch.device, torch.dtype]:
    """Return the device and the U-Net's number format for the arguments of `load_model`. Raises ModelError."""
    asked = stated_precision(card, precision)
    if card.student.inputs == "dire":
        if asked not in {"auto", "fp32"}:
            raise ModelError(
                f"{card.name} reads DIRE images, for which only float32 is exact enough: each image takes 40 passes of "
                f"the U-Net, and the rounding errors of {asked} add up. Use the precision fp32 or auto. If the card "
                "states another precision, correct it."
            )
        asked = "fp32"
    target = choose_device(device)
    return target, choose_dtype(asked, target)


def stated_precision(card: ModelCard, precision: Precision) -> Precision:
    """Return the requested precision; for "auto", the card's, if it states one."""
    return card.precision if precision == "auto" and card.precision else precision


def choose_device(name: str) -> torch.device:
    """Return the device of that name, with TF32 off. Raises ModelError if it is missing or not supported."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ModelError(f"There is no device named {name!r}: use auto, cpu or cuda.") from error
    if device.type not in {"cpu", "cuda"}:
        raise ModelError(f"The device {name!r} is not supported: use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"The device {name!r} is not there: install its driver, or use the device auto or cpu.")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # TF32 would silently make float32 a thousand times coarser
    return device


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the U-Net's number format.

    bfloat16 adds a relative error of 1 to 2 % to eps and is about three times as fast as float32. On a processor this
    needs AVX-512 BF16 or AMX instructions: without them bfloat16 is emulated, and slower than float32.
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


def _settle(network: _Network, device: torch.device) -> _Network:
    return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(requires_grad=False)
