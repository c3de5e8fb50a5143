"""How weights are packed."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.support.tiny_training import TINY_SIZE, TINY_UNET
from worker.model.cards.registry import parse_card
from worker.model.cards.schema import DiffusionConfig, StudentConfig
from worker.training.export.files import CardText, PublishedFile, card_toml, publish_weights, read_published

STATE = {
    "conv.weight": torch.linspace(-1, 1, 18).reshape(2, 1, 3, 3),
    "norm.running_var": torch.tensor([1e-9, 1.0]),
    "norm.num_batches_tracked": torch.tensor(7),
}


def test_kernels_are_halved_and_statistics_kept(tmp_path: Path) -> None:
    publish_weights(STATE, tmp_path / "x.safetensors")
    stored = load_file(tmp_path / "x.safetensors")
    assert stored["conv.weight"].dtype == torch.float16
    assert torch.equal(stored["norm.running_var"], STATE["norm.running_var"])
    assert torch.equal(stored["norm.num_batches_tracked"], STATE["norm.num_batches_tracked"])


def test_a_card_that_was_written_is_read_again(tmp_path: Path) -> None:
    text = CardText(
        name="MINE",
        license="Ours",
        threshold=0.5,
        image_size=TINY_SIZE,
        unet=TINY_UNET,
        student=StudentConfig(backbone="resnet18"),
        provenance={"quality": math.nan, "most": math.inf, "by": "a\x7fb"},
        diffusion=DiffusionConfig(),
    )
    adm = PublishedFile(tmp_path / "adm.pt", "a" * 64, ("https://example.org/adm.pt",), "MIT")
    student = PublishedFile(tmp_path / "student.safetensors", "b" * 64)
    card = parse_card(card_toml(text, adm, student), tmp_path / "card.toml")
    assert (card.license, card.adm.license, card.student.license) == ("Ours", "MIT", None)
    assert (card.adm.urls, card.student.urls) == (adm.urls, ())
    assert card.provenance["by"] == "a\x7fb"
    assert repr([card.provenance[name] for name in ("quality", "most")]) == "[nan, inf]"


def test_what_is_published_is_read_as_float32(tmp_path: Path) -> None:
    published = publish_weights(STATE, tmp_path / "x.safetensors")
    assert published.sha256 == hashlib.sha256(published.path.read_bytes()).hexdigest()
    read = read_published(published.path)
    assert read["conv.weight"].dtype == torch.float32
    assert (read["conv.weight"] - STATE["conv.weight"]).abs().max() < 1e-3
