"""From a pickled checkpoint to safetensors: the same tensors, without anything else, and the published digests."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from worker.model.cards.registry import CONVERTED, InstalledCard, ModelError
from worker.model.cards.schema import WeightsFile
from worker.model.weights.digests import (
    PublishedDigests,
    Record,
    digests,
    identify,
    published_digests,
    read_record,
    write_record,
)
from worker.model.weights.installation import require_space
from worker.model.weights.state_dicts import read_state


def convert(installed: InstalledCard, stated: WeightsFile) -> Path | None:
    """Write a safetensors copy of a file of the card beside it, under its name with `.safetensors` added.

    From then on the copy is loaded instead of the file. It counts as the card's file, because its record and its
    metadata hold the published digests.

    Returns:
        The new file; None if the file is a safetensors file already.

    Raises:
        ModelError: the file is missing, altered or damaged, the copy differs, or there is not enough disk space.
    """
    source = installed.locate(stated)
    if source.suffix == CONVERTED:
        return None
    identify(source, stated)
    known = read_record(source)
    published = known.published if known else published_digests(source)
    target = source.with_name(source.name + CONVERTED)
    require_space(target.parent, source.stat().st_size)
    partial = target.with_name(target.name + ".partial")
    try:
        _write(read_state(source), partial, source.name, published)
        shutil.copymode(source, partial)  # the library makes its files readable only by their owner
        sha256 = digests(partial, ("sha256",))["sha256"]
        write_record(target, Record(sha256=sha256, published=published))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write(state: dict[str, Tensor], path: Path, name: str, published: PublishedDigests) -> None:
    """Write the tensors, none sharing memory with another, then read the file and check that they are the same."""
    for key in list(state):
        state[key] = state.pop(key).clone(memory_format=torch.contiguous_format)  # one at a time: they may be large
    metadata = {"format": "pt", "source": name} | {
        f"source_{key}": value for key, value in published.model_dump().items()
    }
    save_file(state, path, metadata)
    with safe_open(path, framework="pt") as written:
        same = set(written.keys()) == set(state) and all(
            torch.equal(written.get_tensor(key), value) for key, value in state.items()
        )
    if not same:
        raise ModelError(
            f"{path} does not hold the tensors that were written: the disk or the memory is faulty. Convert it again."
        )
