"""Running a detector over images: the numbers a service would give, whatever the batch; and what is skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.bench.model import seeded_detector
from tests.support.labelled_images import labelled
from tests.support.tiny_model import NAME, write_model
from tests.support.tiny_training import smooth_picture
from worker.datasets.digests import data_sha256
from worker.datasets.labelled_image import LabelledImage
from worker.evaluation.batch_cache import BatchCache
from worker.evaluation.scorer import ABLATIONS, Scoring, scores_of
from worker.model import Detector, load_model


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    torch.set_num_threads(1)
    return load_model(NAME, "cpu", "fp32", write_model(tmp_path_factory.mktemp("models")))


@pytest.fixture
def images(tmp_path: Path) -> list[LabelledImage]:
    """Seven pictures, the odd ones fakes."""
    found = []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        Image.fromarray(smooth_picture(number)).save(path)
        found.append(labelled(path, number % 2 == 1, "adm" if number % 2 else "", f"g{number}"))
    return found


def damage(images: list[LabelledImage], number: int, content: bytes) -> None:
    """Replace an image's file before its digest is computed."""
    image = images[number]
    image.path.write_bytes(content)
    images[number] = labelled(image.path, image.fake, image.generator, image.group)


def unseen(name: str) -> Callable[[], object]:
    """Progress that nobody looks at."""
    return lambda: name


def test_logits_are_those_of_a_service_in_the_images_order(detector: Detector, images: list[LabelledImage]):
    ticks: list[str] = []
    judged = Scoring(detector, images, 3, lambda name: lambda: ticks.append(name)).logits("plain")
    alone = [detector.detect(detector.preprocess(Image.open(image.path))[None]).logit.item() for image in images]
    np.testing.assert_allclose(judged.logits, alone, atol=1e-4)
    assert ticks == ["plain"] * len(images)
    assert judged.skipped == ()


def test_what_cannot_be_read_is_listed_and_left_out(detector: Detector, images: list[LabelledImage]):
    damage(images, 1, images[1].path.read_bytes()[:60])
    images[4].path.unlink()
    judged = Scoring(detector, images, 2, unseen).logits("plain")
    assert {(file.path, file.reason.partition(":")[0]) for file in judged.skipped} == {
        (images[1].path, "corrupt_image"),
        (images[4].path, "cannot be read"),
    }
    scores = scores_of(images, judged.logits)
    assert scores.groups.tolist() == ["g0", "g2", "g3", "g5", "g6"]
    assert scores.fake.tolist() == [False, False, True, True, False]
    assert scores.generators.tolist() == ["", "", "adm", "adm", ""]


def test_a_file_that_changed_since_its_digest_was_computed_is_not_scored(
    detector: Detector, images: list[LabelledImage]
):
    images[1].path.write_bytes(images[2].path.read_bytes())
    judged = Scoring(detector, images, 2, unseen).logits("plain")
    assert [file.path for file in judged.skipped] == [images[1].path]
    assert "has changed since this command read the data set" in judged.skipped[0].reason


def test_a_file_that_stays_in_memory_is_scored_whatever_happens_to_it(detector: Detector, images: list[LabelledImage]):
    expected = Scoring(detector, images, 8, unseen).logits("plain").logits
    held = [replace(image, content=image.path.read_bytes()) for image in images]
    for image in images:
        image.path.unlink()
    np.testing.assert_array_equal(Scoring(detector, held, 8, unseen).logits("plain").logits, expected)


def test_ablations_take_from_the_student_what_they_say(detector: Detector, images: list[LabelledImage]):
    judged = Scoring(detector, images, 8, unseen).logits("plain", ablations=ABLATIONS)
    x = torch.stack([detector.preprocess(Image.open(image.path)) for image in images])
    eps, nothing = detector.noise_map(x), torch.zeros_like(x)
    for name, pair in {"eps zeroed": (x, nothing), "image zeroed": (nothing, eps)}.items():
        np.testing.assert_allclose(judged.ablated[name], detector.classify(*pair).logit[:, 0].numpy(), atol=1e-4)
    every = [detector.classify(x, eps.roll(shift, dims=0)).logit[:, 0].numpy() for shift in range(1, 7)]
    for place, number in enumerate(judged.ablated["eps shuffled"]):
        with_others = min(abs(logits[place] - number) for logits in every)
        assert with_others < 0.1 * abs(judged.logits[place] - number), "the noise map is another image's"


def test_dire_is_the_distance_to_the_reconstruction(detector: Detector, images: list[LabelledImage]):
    images[2].path.unlink()
    x = torch.stack([detector.preprocess(Image.open(image.path)) for image in images[:2]])
    distances = (x - detector.reconstruct(x)).abs().mean(dim=(1, 2, 3)).numpy()
    found = Scoring(detector, images[:3], 3, unseen).dire_errors("DIRE")
    assert np.isnan(found[2])
    np.testing.assert_allclose(found[:2], distances, rtol=1e-3)


def test_what_was_judged_in_another_number_format_is_judged_anew(
    detector: Detector, images: list[LabelledImage], tmp_path: Path
):
    batch_cache = BatchCache(tmp_path, ["these images"])
    Scoring(detector, images, 4, unseen, batch_cache).logits("plain")
    coarse = seeded_detector(detector.card, torch.device("cpu"), torch.bfloat16)
    coarse.weights_sha256 = detector.weights_sha256
    alone = Scoring(coarse, images, 4, unseen).logits("plain").logits
    assert Scoring(coarse, images, 4, unseen, batch_cache).logits("plain").logits.tolist() == alone.tolist()


def test_what_was_judged_before_the_card_was_corrected_is_judged_anew(
    detector: Detector, images: list[LabelledImage], tmp_path: Path
):
    """With the same weights: what the card says of them is part of what they answer."""
    batch_cache = BatchCache(tmp_path, ["these images"])
    Scoring(detector, images, 4, unseen, batch_cache).logits("plain")
    card = write_model(tmp_path) / "card.toml"
    card.write_text(card.read_text().replace("input_size = 64", "input_size = 48"))
    corrected = load_model(NAME, "cpu", "fp32", tmp_path)
    assert corrected.weights_sha256 == detector.weights_sha256
    alone = Scoring(corrected, images, 4, unseen).logits("plain").logits
    assert Scoring(corrected, images, 4, unseen, batch_cache).logits("plain").logits.tolist() == alone.tolist()
    assert alone.tolist() != Scoring(detector, images, 4, unseen).logits("plain").logits.tolist()


def test_a_picture_is_changed_alike_wherever_it_lies(detector: Detector, images: list[LabelledImage]):
    drawn: dict[str, list[float]] = {}

    def noting(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        drawn.setdefault(str(image.getpixel((0, 0))), []).append(rng.random())
        return image

    Scoring(detector, images, 2, unseen).logits("noted", change=noting)
    Scoring(detector, images[::-1], 3, unseen).logits("noted", change=noting)
    assert all(first == second for first, second in drawn.values())
    assert len({first for first, _ in drawn.values()}) == len(images)


class StoppedError(Exception):
    """Ctrl-C, or a crash."""


def test_what_was_broken_off_goes_on_where_it_was(
    detector: Detector, images: list[LabelledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    batch_cache = BatchCache(tmp_path, ["these images"])
    damage(images, 1, b"no image")
    whole = Scoring(detector, images, 2, unseen).logits("plain", ablations=ABLATIONS)
    seen: list[str] = []

    def stop_at_the_fifth(name: str) -> Callable[[], object]:
        def after_image() -> None:
            seen.append(name)
            if len(seen) == 5:
                raise StoppedError

        return after_image

    with pytest.raises(StoppedError):
        Scoring(detector, images, 2, stop_at_the_fifth, batch_cache).logits("plain", ablations=ABLATIONS)
    computed: list[int] = []
    noise_map = detector.noise_map

    def counted(x: torch.Tensor) -> torch.Tensor:
        computed.append(len(x))
        return noise_map(x)

    monkeypatch.setattr(detector, "noise_map", counted)
    judged = Scoring(detector, images, 2, unseen, batch_cache).logits("plain", ablations=ABLATIONS)

    assert 0 < sum(computed) <= 3, "what was judged before the crash is not judged again"
    np.testing.assert_array_equal(judged.logits, whole.logits)
    for name, logits in whole.ablated.items():
        np.testing.assert_array_equal(judged.ablated[name], logits)
    assert [file.path for file in judged.skipped] == [images[1].path]
    batch_cache.clear()
    assert not batch_cache.folder.exists()


def test_nothing_is_recalled_of_another_pass_or_of_other_images(
    detector: Detector, images: list[LabelledImage], tmp_path: Path
):
    Scoring(detector, images, 2, unseen, BatchCache(tmp_path, ["these images"])).logits("plain")
    batch_cache = BatchCache(tmp_path, ["these images"])
    blank = Scoring(detector, images, 2, unseen, batch_cache).logits(
        "blank", change=lambda image, _: Image.new("RGB", (9, 9))
    )
    assert len(set(blank.logits.round(4))) == 1
    assert BatchCache(tmp_path, ["other images"]).recall("any", 0) is None
    assert BatchCache(tmp_path, ["other images"]).folder != batch_cache.folder


def test_the_digest_follows_bytes_and_labels_not_paths(images: list[LabelledImage], tmp_path: Path):
    before = data_sha256(images)
    moved = tmp_path / "elsewhere.png"
    images[0].path.rename(moved)
    first = labelled(moved, fake=False, group="g0")
    assert data_sha256([*images[1:], first]) == before
    relabelled = labelled(moved, fake=True, generator="adm", group="g0")
    assert data_sha256([*images[1:], relabelled]) != before
