"""Stage 1: pairs belong together, none is out of date, and what broke off goes on."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tiny_dataset import write_dataset
from tests.support.tiny_training import TINY_SIZE, TINY_UNET
from worker.atomic_files import DiskFullError
from worker.datasets.dataset import read_dataset
from worker.datasets.labelled_image import LabelledImage
from worker.imaging.decoding import preprocess
from worker.model.cards.schema import DiffusionConfig
from worker.model.diffusion import SpacedDiffusion, dire
from worker.model.networks.unet import AdmUnet
from worker.training.loop.disk_space import require_disk_space
from worker.training.loop.distributed import ProcessGroup
from worker.training.pairs import store as pairs_module
from worker.training.pairs.augmentation import augmented
from worker.training.pairs.store import NoiseMaker, PairError, PairKey, PairStore
from worker.training.recipe import Augmentation

CUT = Augmentation(crop_probability=1, flip_probability=0.5, jpeg_probability=1, jpeg_qualities=(20, 40))
KEY = PairKey(
    adm_sha256="a" * 64,
    unet=TINY_UNET,
    diffusion=DiffusionConfig(),
    image_size=TINY_SIZE,
    precision="fp32",
    augmentation=CUT,
    seed=5,
    with_dire=False,
)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(pairs_module, "SHARD_PAIRS", 8)


@pytest.fixture(scope="module")
def maker() -> NoiseMaker:
    """An untrained ADM whose last layer is not zero: its noise depends on what it is shown."""
    torch.manual_seed(0)
    unet = AdmUnet(TINY_UNET, TINY_SIZE)
    torch.nn.init.normal_(dict(unet.named_parameters())["out.2.weight"], std=0.02)
    return NoiseMaker(unet.eval(), SpacedDiffusion(DiffusionConfig()), torch.device("cpu"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", each=6)


@pytest.fixture
def images(data: Path) -> tuple[LabelledImage, ...]:
    return read_dataset(data).images


@pytest.fixture
def store_of(tmp_path: Path, data: Path) -> Callable[..., PairStore]:
    """Makes a store of the images as they are on disk at that moment."""

    def make(variants: int = 2, folder: str = "pairs", **changes: object) -> PairStore:
        return PairStore(tmp_path / folder, replace(KEY, **changes), read_dataset(data).images, variants)  # type: ignore[arg-type]

    return make


StoreOf = Callable[..., PairStore]


def all_of(store: PairStore) -> np.ndarray:
    return np.arange(len(store.labels))


def test_the_noise_is_that_of_exactly_the_pixels_it_lies_with(store_of: StoreOf, maker: NoiseMaker) -> None:
    store = store_of()
    store.make(maker)
    batch = store.load(all_of(store))
    expected = maker.diffusion.first_step_eps(maker.unet, batch.x)
    assert torch.allclose(batch.eps, expected, atol=2e-3, rtol=2e-3)
    assert batch.eps.abs().mean() > 0.01
    assert batch.dire is None


def test_a_clean_noise_map_is_that_of_the_image_before_jpeg(
    store_of: StoreOf, maker: NoiseMaker, images: tuple[LabelledImage, ...]
) -> None:
    store = store_of(1, augmentation=Augmentation(jpeg_probability=1, jpeg_qualities=(5, 10), clean_eps=True))
    store.make(maker)
    batch = store.load(np.array([0]))
    clean = torch.from_numpy(preprocess(Image.open(images[0].path), TINY_SIZE))[None].half().float()
    assert (batch.x - clean).abs().mean() > 0.02
    assert torch.allclose(batch.eps, maker.diffusion.first_step_eps(maker.unet, clean), atol=2e-3, rtol=2e-3)


def test_dire_images_are_those_of_the_full_reconstruction(store_of: StoreOf, maker: NoiseMaker) -> None:
    store = store_of(1, with_dire=True)
    store.make(maker)
    batch = store.load(np.array([3]))
    assert batch.dire is not None
    with torch.no_grad():
        expected = dire(batch.x, maker.diffusion.reconstruct(maker.unet, batch.x))
    assert ((batch.dire + 1) * 127.5 - expected).abs().max() <= 1.01  # another batch size, another last digit


def test_a_student_of_dire_images_gets_them_for_noise_maps(store_of: StoreOf, maker: NoiseMaker) -> None:
    made, read = store_of(1, with_dire=True), store_of(1, with_dire=True)
    read.reads_dire = True
    made.make(maker)
    batch = read.load(np.array([3]))
    assert batch.dire is not None
    assert torch.equal(batch.eps, batch.dire)
    assert not torch.equal(made.load(np.array([3])).eps, batch.eps)


def test_variants_differ_and_the_seed_decides_them(store_of: StoreOf, maker: NoiseMaker) -> None:
    stores = [store_of(), store_of(folder="again"), store_of(seed=6)]
    for store in stores:
        store.make(maker)
    first, again, other = (store.load(all_of(store)).x for store in stores)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


def test_labels_and_order_are_those_of_the_images(store_of: StoreOf, images: tuple[LabelledImage, ...]) -> None:
    assert store_of().labels.tolist() == [image.fake for image in images for _ in range(2)]


@pytest.mark.parametrize(
    "change",
    [
        {"adm_sha256": "b" * 64},
        {"unet": TINY_UNET.model_copy(update={"num_heads": 2})},
        {"augmentation": Augmentation()},
        {"image_size": 32},
        {"precision": "bf16"},
        {"seed": 6},
        {"with_dire": True},
        {"diffusion": DiffusionConfig(clip_denoised=False)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_pair_of_other_settings_is_taken(store_of: StoreOf, maker: NoiseMaker, change: dict[str, object]) -> None:
    store_of().make(maker)
    assert store_of().missing() == []
    other = store_of(**change)
    assert other.missing() == [0, 1, 2]


def test_no_pair_of_other_preprocessing_is_taken(
    store_of: StoreOf, maker: NoiseMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of().make(maker)
    monkeypatch.setattr(
        "worker.training.pairs.augmentation.preprocess", lambda image, size: preprocess(image, size) * 0.99
    )
    assert store_of().missing() == [0, 1, 2]


def test_an_image_that_changed_is_computed_anew(
    store_of: StoreOf, maker: NoiseMaker, images: tuple[LabelledImage, ...]
) -> None:
    before = store_of()
    before.make(maker)
    Image.new("RGB", (60, 48), "red").save(images[5].path)
    after = store_of()
    assert after.missing() == [1]  # pairs 10 and 11
    assert after.data_sha256 != before.data_sha256
    after.make(maker)
    assert not torch.equal(after.load(np.array([10])).x, before.load(np.array([10])).x)


def test_an_image_that_changes_while_pairs_are_made_is_under_no_digest(
    store_of: StoreOf, maker: NoiseMaker, images: tuple[LabelledImage, ...]
) -> None:
    store = store_of()
    Image.new("RGB", (60, 48), "red").save(images[5].path)
    with pytest.raises(PairError, match=f"{images[5].path.name} changed while.*Run the same command again"):
        store.make(maker)
    assert store.missing() == [1, 2]
    after = store_of()
    after.make(maker)
    assert after.missing() == []


class Overflows(NoiseMaker):
    """As a U-Net does in float16 whose activations pass 65,504: some of its numbers are none."""

    only_later = False
    """The first step's noise is sound, the reconstruction is not."""

    def eps(self, x: torch.Tensor) -> torch.Tensor:
        return super().eps(x) if self.only_later else _spoilt(super().eps(x), torch.nan)

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return _spoilt(super().reconstruct(x), torch.inf)


class OverflowsLater(Overflows):
    only_later = True


def _spoilt(found: torch.Tensor, value: float) -> torch.Tensor:
    found = found.clone()  # what was made in inference mode cannot be changed
    found[3, 1, 2, 2] = value
    return found


@pytest.mark.parametrize("kind", [Overflows, OverflowsLater])
def test_what_is_no_number_is_no_pair(
    kind: type[Overflows], store_of: StoreOf, maker: NoiseMaker, images: tuple[LabelledImage, ...]
) -> None:
    store = store_of(precision="fp16", with_dire=True)
    with pytest.raises(PairError, match=rf"{images[1].path.name} is not finite in fp16\..*pairs\.precision, such as"):
        store.make(kind(maker.unet, maker.diffusion, maker.device))
    assert store.missing() == [0, 1, 2]


def test_images_in_another_order_are_the_same_data_and_other_pairs(
    store_of: StoreOf, images: tuple[LabelledImage, ...], tmp_path: Path
) -> None:
    """A training that went on with them would draw other batches."""
    store, turned = store_of(1), PairStore(tmp_path / "pairs", KEY, images[::-1], 1)
    assert turned.data_sha256 == store.data_sha256
    assert turned.identity != store.identity


def test_what_broke_off_goes_on_with_the_shard_that_is_missing(store_of: StoreOf, maker: NoiseMaker) -> None:
    class Broken(NoiseMaker):
        calls = 0

        def eps(self, x: torch.Tensor) -> torch.Tensor:
            type(self).calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().eps(x)

    with pytest.raises(KeyboardInterrupt):
        store_of().make(Broken(maker.unet, maker.diffusion, maker.device))
    store = store_of()
    assert store.missing() == [1, 2]
    store.make(maker)
    assert store.missing() == []


def test_a_full_disk_is_an_error_with_a_remedy_after_which_work_goes_on(store_of: StoreOf, maker: NoiseMaker) -> None:
    """The system refuses to let any file grow beyond a limit, as a full disk does."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, usual[1]))
    try:
        with pytest.raises(DiskFullError, match="run the same command again"):
            store_of().make(maker)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    store = store_of()
    assert store.missing() == [0, 1, 2]
    assert not list(store.folder.glob("*.partial"))
    store.make(maker)
    assert store.missing() == []


def test_all_that_a_disk_will_take_is_summed_before_any_work(
    store_of: StoreOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [store_of(), store_of(1, with_dire=True)]
    needed = 24 * 2 * 2 * 3 * TINY_SIZE**2 + 12 * 5 * 3 * TINY_SIZE**2
    assert sum(store.missing_bytes() for store in stores) == needed
    room = type("Usage", (), {"free": needed + 99})
    monkeypatch.setattr("worker.training.loop.disk_space.shutil.disk_usage", lambda _: room)
    pairs = [(store.folder, store.missing_bytes()) for store in stores]
    with pytest.raises(DiskFullError, match="fewer variants"):
        require_disk_space([*pairs, (tmp_path / "out", 100)])
    require_disk_space([*pairs, (tmp_path / "out", 99)])


def test_processes_share_the_shards(store_of: StoreOf, maker: NoiseMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessGroup, "wait", lambda _: None)
    monkeypatch.setattr(ProcessGroup, "from_main", lambda _, make: make())
    store_of().make(maker, ProcessGroup(rank=1, size=2))
    assert store_of().missing() == [0, 2]


@pytest.mark.parametrize(("size", "sides"), [((35_000, 10), 65_500), ((6_000, 100), 24_000), ((2_000, 4), 8_000)])
def test_no_picture_is_enlarged_beyond_what_a_jpeg_can_hold(
    size: tuple[int, int], sides: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.training.pairs.augmentation._LARGEST_AREA", 24_000 * 400)
    options = Augmentation(resize_probability=1, resize_factors=(4, 4), jpeg_probability=1)
    assert max(augmented(Image.new("RGB", size), options, np.random.default_rng(0)).size) == sides


def test_every_augmentation_does_what_it_says() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))

    def version(options: Augmentation, seed: int = 0) -> Image.Image:
        return augmented(picture, options, np.random.default_rng(seed))

    assert version(Augmentation()) == picture
    assert version(Augmentation(flip_probability=1)) == picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert version(Augmentation(crop_probability=1, crop_sides=(0.5, 0.5))).size == (30, 20)
    assert version(Augmentation(resize_probability=1, resize_factors=(1.5, 1.5))).size == (90, 60)
    errors = [
        np.abs(
            np.asarray(version(Augmentation(jpeg_probability=1, jpeg_qualities=(q, q)))) - np.asarray(picture, float)
        )
        for q in (10, 95)
    ]
    assert errors[0].mean() > errors[1].mean() > 0
