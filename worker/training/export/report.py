"""The parts of a training's report and card that describe the data, the result and the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import torch

from worker.datasets.dataset import Dataset
from worker.datasets.formats import Split
from worker.datasets.labelled_image import LabelledImage

_CAVEAT = (
    "The threshold was not chosen on any data. Evaluate the model on images that it never saw, and choose a policy "
    "with `distildire calibrate`."
)


def described(dataset: Dataset) -> dict[str, Any]:
    """Return the counts of images and groups by split, class and generator, and the skipped files."""
    splits = {split: _counts(dataset.of(split)) for split in get_args(Split)}
    skipped = [{"path": str(one.path), "reason": one.reason} for one in dataset.skipped]
    return {"splits": splits, "skipped": skipped}


def provenance(report: dict[str, Any]) -> dict[str, str | int | float]:
    """Return the card's `[provenance]` section, taken from the report."""
    data, best = report["data"], report["best"]
    counts = "; ".join(
        f"{split}: {found['reals']} real, {sum(found['fakes'].values())} fake in {found['groups']} groups"
        for split, found in data["splits"].items()
    )
    taken: dict[str, str | int | float] = {}
    if data["without_generators"]:
        taken["without_generators"] = ", ".join(data["without_generators"])
    if data["permuted_labels"]:
        taken["labels"] = "shuffled: they mean nothing"
    return {
        "data": counts,
        "generators": ", ".join(data["splits"]["train"]["fakes"]),
        **taken,
        "data_sha256": data["sha256"],
        "recipe": report["recipe"]["name"],
        "epoch": best["epoch"],
        "validation_average_precision": round(best["average_precision"], 4),
        "caveat": _CAVEAT,
    }


def device_name(device: torch.device) -> str:
    """Return the name of the device for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _counts(images: Sequence[LabelledImage]) -> dict[str, Any]:
    fakes = Counter(image.generator for image in images if image.fake)
    return {
        "reals": sum(not image.fake for image in images),
        "fakes": dict(sorted(fakes.items())),
        "groups": len({image.group for image in images}),
    }
