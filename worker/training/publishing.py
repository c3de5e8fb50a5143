"""From trained networks to what is shipped: weights in half precision and a model card with its figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.model.config import Format, StudentConfig, UnetConfig


@dataclass(frozen=True)
class PublishedFile:
    """A weights file beside its card."""

    path: Path
    sha256: str


def publish_weights(state: Mapping[str, Tensor], path: Path) -> PublishedFile:
    """Write weights as safetensors: matrices and kernels in float16, vectors and statistics as they are.

    The vectors weigh nothing, and a variance may be too small for float16. The file appears whole or not at all.
    """
    packed = {name: _packed(value) for name, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file(packed, partial)
    partial.replace(path)
    return PublishedFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


def read_published(path: Path) -> dict[str, Tensor]:
    """Return the weights as services compute with them: in float32 what was packed."""
    return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}


def _packed(value: Tensor) -> Tensor:
    value = value.detach().contiguous()
    return value.half() if value.dtype == torch.float32 and value.ndim > 1 else value


@dataclass(frozen=True)
class CardText:
    """What a card of a model trained here says. `provenance` is shown in its order."""

    name: str
    license: str
    threshold: float
    notice: str
    image_size: int
    precision: Format
    unet: UnetConfig
    student: StudentConfig
    provenance: Mapping[str, str | int | float]


def card_toml(text: CardText, adm: PublishedFile, student: PublishedFile) -> str:
    """Return the card of a demonstration model as TOML."""
    head: dict[str, object] = {
        "name": text.name,
        "license": text.license,
        "threshold": text.threshold,
        "image_size": text.image_size,
        "precision": text.precision,
        "demonstration": True,
        "notice": text.notice,
    }
    sections = {
        "adm": _file_fields(adm) | text.unet.model_dump(exclude_none=True),
        "student": _file_fields(student) | text.student.model_dump(exclude_none=True),
        "provenance": text.provenance,
    }
    lines = _assignments(head)
    for title, fields in sections.items():
        lines += ["", f"[{title}]", *_assignments(fields)]
    return "\n".join(lines) + "\n"


def _file_fields(file: PublishedFile) -> dict[str, object]:
    return {"weights": file.path.name, "sha256": file.sha256}


def _assignments(fields: Mapping[str, object]) -> list[str]:
    """JSON's strings, numbers, booleans and lists are TOML's too."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
