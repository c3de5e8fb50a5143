"""Writes the files of a trained model: weights in safetensors, and the model card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomlkit
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from worker.atomic_files import write_whole
from worker.model.cards.schema import DiffusionConfig, Format, StudentConfig, UnetConfig


@dataclass(frozen=True)
class PublishedFile:
    """A weights file beside its card, the URLs that it can be fetched from, and its licence if not the card's."""

    path: Path
    sha256: str
    urls: tuple[str, ...] = ()
    license: str | None = None


def publish_weights(state: Mapping[str, Tensor], path: Path, *, halved: bool = True) -> PublishedFile:
    """Write weights as safetensors. The write is atomic.

    `halved`: store matrices and kernels in float16. Vectors and statistics stay as they are: they take little space,
    and a variance may be too small for float16.

    Raises:
        DiskFullError: the disk is too full for it.
    """
    packed = {name: _packed(value) if halved else value.detach().contiguous() for name, value in state.items()}
    content = save(packed)
    write_whole(path, content)
    return PublishedFile(path, hashlib.sha256(content).hexdigest())


def read_published(path: Path) -> dict[str, Tensor]:
    """Return published weights as a worker loads them, in float32."""
    return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}


def _packed(value: Tensor) -> Tensor:
    value = value.detach().contiguous()
    return value.half() if value.dtype == torch.float32 and value.ndim > 1 else value


@dataclass(frozen=True)
class CardText:
    """The fields of the card of a model trained here, as in `ModelCard`. `provenance` keeps its order."""

    name: str
    license: str
    threshold: float
    image_size: int
    unet: UnetConfig
    student: StudentConfig
    provenance: Mapping[str, str | int | float]
    diffusion: DiffusionConfig
    precision: Format | None = None
    demonstration: bool = False
    notice: str | None = None


def card_toml(text: CardText, adm: PublishedFile, student: PublishedFile) -> str:
    """Return the card of a model as TOML."""
    head = {
        name: getattr(text, name)
        for name in ("name", "license", "threshold", "image_size", "precision", "demonstration", "notice")
    }
    sections = {
        "adm": _file_fields(adm) | text.unet.model_dump(),
        "diffusion": text.diffusion.model_dump(),
        "student": _file_fields(student) | text.student.model_dump(),
        "provenance": text.provenance,
    }
    tables = {title: _known(fields) for title, fields in sections.items()}
    return tomlkit.dumps(_known(head) | tables)


def _known(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that are not None, because TOML has no null."""
    return {name: value for name, value in fields.items() if value is not None}


def _file_fields(file: PublishedFile) -> dict[str, object]:
    return {"weights": file.path.name, "license": file.license, "sha256": file.sha256, "urls": file.urls or None}
