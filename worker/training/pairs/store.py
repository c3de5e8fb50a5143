"""Stage 1: stores every variant of every image with its noise map, and its DIRE image if needed, in shards on disk.

A shard's name is a digest of the images and variants in it. Its folder's name is a digest of everything else that
determines the numbers (`PairKey`). So an outdated pair is never used, and an interrupted run computes only the missing
shards. Labels are not in the shards, so a corrected label costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from shared.errors import DistildireError
from worker.atomic_files import write_whole
from worker.datasets.digests import data_sha256, ordered_sha256
from worker.datasets.labelled_image import ChangedImageError, LabelledImage
from worker.imaging.decoding import ImageLimits, decode, preprocess
from worker.model.cards.schema import DiffusionConfig, Format, UnetConfig
from worker.model.diffusion import Denoiser, SpacedDiffusion, dire, dire_unit
from worker.training.loop.distributed import ProcessGroup
from worker.training.pairs.augmentation import augmented, pixels_digest
from worker.training.recipe import Augmentation

log = logging.getLogger(__name__)

SHARD_PAIRS = 64
"""An interrupted run loses at most one shard: a second of work on a GPU, minutes on a CPU."""

_BATCHES = {"cuda": 16}
_CPU_BATCH = 4
_DECODERS = 4  # each may hold two images of 240 MB
_OPEN_SHARDS = 64
_BYTES = {"x": 2, "eps": 2, "dire": 1}


class PairError(DistildireError):
    """A pair cannot be made."""


@dataclass(frozen=True)
class Batch:
    """`x`, `eps` and `dire` (B, 3, S, S) float32, the last in [-1, 1] or None; `fake` (B,) float32, 1 for a fake.

    For a student that reads DIRE images, `eps` holds DIRE images. After CutMix, `fake` is a share in [0, 1].
    """

    x: Tensor
    eps: Tensor
    dire: Tensor | None
    fake: Tensor


class PairSource(Protocol):
    """Numbered pairs from which the student learns. `labels` (N,): which pairs are fakes."""

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Whether each pair is a fake, (N,)."""

    def load(self, index: NDArray[np.int64]) -> Batch:
        """Return the pairs with these numbers, in CPU memory."""


@dataclass(frozen=True)
class PairKey:
    """Everything that determines the numbers of a pair besides the image itself.

    `adm_sha256`: the digest of the U-Net's weights. `unet`: its architecture, which the weights do not determine: no
    tensor shows the number of attention heads.
    """

    adm_sha256: str
    unet: UnetConfig
    diffusion: DiffusionConfig
    image_size: int
    precision: Format
    augmentation: Augmentation
    seed: int
    with_dire: bool

    def describe(self) -> str:
        """Return the key as JSON, with a digest of the output of the installed preprocessing code (`pixels_digest`)."""
        fields = asdict(self) | {
            "unet": self.unet.model_dump(),
            "diffusion": self.diffusion.model_dump(),
            "augmentation": self.augmentation.model_dump(),
            "pixels": pixels_digest(self.augmentation, self.image_size),
        }
        return json.dumps(fields, indent=1, sort_keys=True)


@dataclass(frozen=True)
class NoiseMaker:
    """The ADM on its device, in the precision that the key names."""

    unet: Denoiser
    diffusion: SpacedDiffusion
    device: torch.device

    @torch.inference_mode()
    def eps(self, x: Tensor) -> Tensor:
        """Return the first-step noise of images x (N, 3, S, S), in CPU memory, float32."""
        parts = [self.diffusion.first_step_eps(self.unet, part.to(self.device)) for part in self._split(x)]
        return torch.cat([part.cpu() for part in parts])

    @torch.inference_mode()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return DIRE's reconstructions of images x (N, 3, S, S), in CPU memory, float32."""
        parts = [self.diffusion.reconstruct(self.unet, part.to(self.device)) for part in self._split(x)]
        return torch.cat([part.cpu() for part in parts])

    def _split(self, x: Tensor) -> Sequence[Tensor]:
        return torch.split(x, _BATCHES.get(self.device.type, _CPU_BATCH))


@dataclass(frozen=True)
class _Item:
    """A pair to make: an image and the number of its variant."""

    image: LabelledImage
    variant: int


class PairStore:
    """The pairs of some images, `variants` of each, in `folder`. It is a `PairSource` after `make`.

    `reads_dire`: whether `load` returns the DIRE images in place of the noise maps.
    """

    def __init__(
        self,
        folder: Path,
        key: PairKey,
        images: Sequence[LabelledImage],
        variants: int,
        *,
        reads_dire: bool = False,
    ) -> None:
        self.reads_dire = reads_dire
        self.key, self.description = key, key.describe()
        self.folder = folder / hashlib.sha256(self.description.encode()).hexdigest()[:16]
        self.images = images
        items = [_Item(image, variant) for image in images for variant in range(variants)]
        self.shards = [items[start : start + SHARD_PAIRS] for start in range(0, len(items), SHARD_PAIRS)]
        self.labels: NDArray[np.bool_] = np.array([item.image.fake for item in items])
        self.data_sha256 = data_sha256(images)
        self._ordered_digest = ordered_sha256(images)
        self._open = lru_cache(_OPEN_SHARDS)(_open_shard)

    @property
    def identity(self) -> str:
        """A name that changes if the pairs, their number, their order or their labels change."""
        return f"{self.folder.name}-{self._ordered_digest[:16]}-{len(self.labels)}"

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not on disk."""
        return [number for number in range(len(self.shards)) if not self._path(number).exists()]

    def missing_bytes(self) -> int:
        """Return how many bytes the missing shards will have, without their headers."""
        side, parts = self.key.image_size, ("x", "eps", "dire") if self.key.with_dire else ("x", "eps")
        each = sum(_BYTES[part] for part in parts) * 3 * side * side
        return each * sum(len(self.shards[number]) for number in self.missing())

    def make(self, maker: NoiseMaker, processes: ProcessGroup = ProcessGroup()) -> None:  # noqa: B008  # a frozen value
        """Compute the missing shards; several processes share the work.

        Raises:
            DiskFullError: the disk is full; the next call continues with the missing shards.
            PairError: the U-Net's output for an image is not finite, or an image changed since its digest was taken.
        """
        missing = processes.from_main(self.missing)  # only the main process looks: the answer changes while they work
        mine = missing[processes.rank :: processes.size]
        self.folder.mkdir(parents=True, exist_ok=True)
        if mine and processes.is_main:
            write_whole(self.folder / "key.json", self.description.encode())
        started = time.monotonic()
        for done, number in enumerate(mine, start=1):
            write_whole(self._path(number), self._computed(self.shards[number], maker))
            left = (time.monotonic() - started) / done * (len(mine) - done)
            log.info("pairs: %d of %d shards of this process, %.0f s left", done, len(mine), left)
        processes.wait()

    def load(self, index: NDArray[np.int64]) -> Batch:
        """Read some pairs from their shards."""
        rows = [self._row(int(number)) for number in index]
        x, eps = (torch.stack([row[part] for row in rows]).float() for part in ("x", "eps"))
        shown = dire_unit(torch.stack([row["dire"] for row in rows])) if self.key.with_dire else None
        read = shown if shown is not None and self.reads_dire else eps
        return Batch(x, read, shown, torch.from_numpy(self.labels[index]).float())

    def _row(self, number: int) -> dict[str, Tensor]:
        shard = self._open(self._path(number // SHARD_PAIRS))
        return {name: shard.get_slice(name)[number % SHARD_PAIRS] for name in shard.keys()}  # noqa: SIM118  # no dict

    def _path(self, number: int) -> Path:
        names = "".join(f"{item.image.sha256} {item.variant}\n" for item in self.shards[number])
        return self.folder / f"{hashlib.sha256(names.encode()).hexdigest()[:32]}.safetensors"

    def _computed(self, items: Sequence[_Item], maker: NoiseMaker) -> bytes:
        """Return the bytes of a shard. The noise is computed from the float16 pixels that the student will see."""
        with warnings.catch_warnings(), ThreadPoolExecutor(_DECODERS) as pool:
            squares = list(pool.map(self._squares, items))
        x = torch.from_numpy(np.stack([seen for seen, _ in squares])).half()
        asked = torch.from_numpy(np.stack([clean for _, clean in squares])).half().float()
        tensors = {"x": x, "eps": self._finite(maker.eps(asked).half(), items)}
        if self.key.with_dire:
            tensors["dire"] = dire(asked, self._finite(maker.reconstruct(asked), items))
        return save({name: tensor.contiguous() for name, tensor in tensors.items()})

    def _finite(self, made: Tensor, items: Sequence[_Item]) -> Tensor:
        """Return `made`, the U-Net's output for these images. Raises PairError if a value is not finite."""
        for item, of_image in zip(items, made, strict=True):
            if not of_image.isfinite().all():
                raise PairError(
                    f"The U-Net's output for {item.image.path} is not finite in {self.key.precision}. Set another "
                    "number format in the recipe (pairs.precision, such as fp32); if it is fp32 already, another ADM."
                )
        return made

    def _squares(self, item: _Item) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the squares that the student and the ADM see of an image: the same square, unless `clean_eps`."""
        options, size = self.key.augmentation, self.key.image_size
        image = decode(_content(item.image), ImageLimits()).image
        rng = np.random.default_rng([self.key.seed, int(item.image.sha256[:16], 16), item.variant])
        seen = preprocess(augmented(image, options, rng), size)
        return seen, preprocess(image, size) if options.clean_eps else seen


def _content(image: LabelledImage) -> bytes:
    """Return the bytes of an image's file. Raises PairError if their digest is no longer the recorded one."""
    try:
        return image.read()
    except ChangedImageError as error:
        raise PairError(f"{image.path} changed while noise maps were made. Run the same command again.") from error


def _open_shard(path: Path) -> Any:
    """Map a shard into memory. This is safe because `write_whole` replaces files and never modifies one."""
    return safe_open(path, framework="pt")
