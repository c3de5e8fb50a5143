"""Model cards: what is refused, and which card of a name is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.model.cards.registry import BUNDLED, ModelError, find_card, list_cards, read_card

PUBLISHED = (BUNDLED / "DISTILDIRE-V1.toml").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DISTILDIRE_MODELS_DIR", raising=False)
    return tmp_path


def test_the_published_detector_is_described():
    card = find_card("DISTILDIRE-V1").card
    assert (card.threshold, card.image_size, card.demonstration) == (0.5, 256, False)
    assert card.adm.channel_mult == (1, 1, 2, 2, 4, 4)
    assert card.adm.md5 == "fd9dd2335b8736d521de0aed54bd90ca"
    assert card.diffusion.kept_steps() == tuple(range(0, 1000, 50))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('license = "CC-BY-NC-4.0"', "", "license: Field required"),
        ("threshold = 0.5", "threshold = 1.5", "threshold: "),
        ("threshold = 0.5", "threshhold = 0.5", "threshhold: Extra inputs are not permitted"),
        ('name = "DISTILDIRE-V1"', 'name = "../V1"', "name: "),
        ("image_size = 256", "image_size = 250", "image_size 250 cannot be halved 5 times"),
        ("num_channels = 256", "num_channels = 100", "adm.num_channels: "),
        ("num_head_channels = 64", "", "exactly one of num_head_channels and num_heads"),
        ("num_head_channels = 64", "num_head_channels = 48", "256 channels do not divide into heads by 48"),
        ("256x256_diffusion_uncond.pt", "../secret.pt", "adm.weights: Value error, must be a path below"),
        ("256x256_diffusion_uncond.pt", "weights.bin", "adm.weights: Value error, must end in one of"),
        ("fd9dd2335b8736d521de0aed54bd90ca", "fd9d", "adm.md5: "),
        ("ddim20", "ddim7000", "no integer distance leaves 7000 of 1000 steps"),
        ("ddim20", "250", "timestep_respacing must be ddimN"),
        ('noise_schedule = "linear"', 'noise_schedule = "cosine"', "diffusion.noise_schedule: "),
        ("image_size = 256", "image_size = ", "cannot be read"),
    ],
)
def test_a_wrong_card_is_refused_by_file_and_field(folder: Path, old: str, new: str, complaint: str):
    path = folder / "card.toml"
    assert old in PUBLISHED
    path.write_text(PUBLISHED.replace(old, new))
    with pytest.raises(ModelError) as caught:
        read_card(path)
    assert str(path) in caught.value.message
    assert complaint in caught.value.message


def test_an_operators_card_goes_before_the_bundled_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "calibrated.toml").write_text(PUBLISHED.replace("threshold = 0.5 ", "threshold = 0.98"))
    assert find_card("DISTILDIRE-V1", folder).card.threshold == 0.98
    monkeypatch.setenv("DISTILDIRE_MODELS_DIR", str(folder))
    assert find_card("DISTILDIRE-V1").card.threshold == 0.98


def test_an_unknown_name_says_what_there_is_and_what_cannot_be_read(folder: Path):
    (folder / "broken.toml").write_text("name = 'MINE'")
    with pytest.raises(ModelError, match=r"no model named 'MINE'(?s:.*)DISTILDIRE-V1(?s:.*)broken\.toml"):
        find_card("MINE", folder)


def test_a_broken_card_does_not_hide_the_others(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / "broken.toml").write_text("name = 'MINE'")
    assert "DISTILDIRE-V1" in [installed.card.name for installed in list_cards(folder)]
    assert "broken.toml" in caplog.text


def test_two_cards_of_one_name_are_reported(folder: Path, caplog: pytest.LogCaptureFixture):
    for name in ("a", "b"):
        (folder / f"{name}.toml").write_text(PUBLISHED.replace("DISTILDIRE-V1", "TWICE"))
    assert [installed.path.name for installed in list_cards(folder) if installed.card.name == "TWICE"] == ["a.toml"]
    assert "b.toml repeats the name TWICE" in caplog.text


def test_missing_weights_say_where_to_get_them_and_where_to_put_them(folder: Path):
    installed = find_card("DISTILDIRE-V1", folder)
    with pytest.raises(ModelError) as caught:
        installed.locate(installed.card.student)
    for needed in ("imagenet-distil-dire-11e.pth", "https://huggingface.co/", "DISTILDIRE_MODELS_DIR", str(folder)):
        assert needed in caught.value.message
