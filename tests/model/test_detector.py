"""The detector as its users call it, with a card of another ADM and another student than the published."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms

import worker.model
from shared.errors import ErrorCode, JobError
from tests.support.reference import Measure, Reference
from worker.imaging.decoding import preprocess
from worker.model import Detector, ModelError, load_model
from worker.model.cards.registry import read_card
from worker.model.loading import Precision, choose, choose_dtype


@pytest.fixture(scope="module")
def detector(tiny_files: Path):
    return load_model("TINY", device="cpu", precision="fp32", models_dir=tiny_files)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """137 × 90 pixels of smooth colours, as JPEG."""
    rows, columns = np.mgrid[:90, :137]
    pixels = np.stack([rows * 2, columns, 255 - rows - columns], axis=-1).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=90)
    return tmp_path / "photo.jpg"


def published_preprocessing(pixels: NDArray[np.uint8], size: int, dtype: torch.dtype) -> Tensor:
    tensor = (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 * 2 - 1).to(dtype)
    cropped: Tensor = transforms.CenterCrop(size)(transforms.Resize(size, antialias=True)(tensor))
    return cropped


@pytest.mark.parametrize(
    "size", [(1920, 1080), (641, 480), (300, 200), (200, 301), (64, 64), (40, 33), (1, 9), (777, 64)]
)
@pytest.mark.parametrize("side", [64, 256])
def test_preprocessing_is_that_of_the_published_code(size: tuple[int, int], side: int):
    """Resized as floats; resizing the 8-bit image instead would be off by up to 4e-3."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    x = torch.from_numpy(preprocess(Image.fromarray(pixels), side))
    assert x.dtype == torch.float32
    exact = published_preprocessing(pixels, side, torch.float64).float()
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-6)
    # In float32 torchvision's own filter positions are rounded: it is up to 2e-5 from itself in float64.
    torch.testing.assert_close(x, published_preprocessing(pixels, side, torch.float32), rtol=0, atol=5e-5)


def test_the_detector_preprocesses_to_its_own_size(detector: Detector):
    image = Image.effect_noise((90, 70), 50)
    assert torch.equal(detector.preprocess(image), torch.from_numpy(preprocess(image.convert("RGB"), 64)))


def test_a_handwritten_card_gives_the_published_noise_map(
    detector: Detector, reference: Reference, relative_error: Measure
):
    golden = reference.golden("adm_tiny64")
    assert relative_error(detector.noise_map(torch.from_numpy(golden["x"])), golden["eps_clipped"]) < 1e-4


def test_a_handwritten_card_gives_the_published_reconstruction(
    detector: Detector, reference: Reference, relative_error: Measure
):
    golden = reference.golden("adm_tiny64")
    assert relative_error(detector.reconstruct(torch.from_numpy(golden["x"])), golden["ddim_reconstruction"]) < 1e-4


def test_detect_is_noise_map_then_classify(detector: Detector):
    x = torch.rand(3, 3, 64, 64) * 2 - 1
    detection = detector.detect(x)
    output = detector.classify(x, detector.noise_map(x))
    assert detection.eps.shape == x.shape
    assert detection.logit.shape == (3, 1)
    assert detection.feature.shape == (3, 576, 3, 3)
    torch.testing.assert_close(detection.logit, output.logit)
    torch.testing.assert_close(detection.feature, output.feature)


def test_neighbours_in_a_batch_do_not_change_a_verdict(detector: Detector):
    x = torch.rand(4, 3, 64, 64) * 2 - 1
    alone = torch.cat([detector.detect(image[None]).logit for image in x])
    torch.testing.assert_close(detector.detect(x).logit, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 5e-2), ("fp16", 1e-2)])
def test_other_precisions_return_float32_near_the_exact(
    detector: Detector, tiny_files: Path, reference: Reference, precision: Precision, tolerance: float
):
    model = load_model("TINY", device="cpu", precision=precision, models_dir=tiny_files)
    x = torch.from_numpy(reference.golden("adm_tiny64")["x"])
    eps, exact = model.noise_map(x), detector.noise_map(x)
    assert eps.dtype == torch.float32
    error = (eps - exact).norm() / exact.norm()
    assert 1e-4 < error < tolerance  # not zero: the network did compute in that precision


def test_analysis_has_the_published_fields(detector: Detector, photograph: Path):
    result = detector.analyze(media_path=str(photograph))
    assert list(result) == ["prediction", "confidence", "processing_time", "dimensions", "heatmap_scores"]
    assert result["prediction"] in {"REAL", "FAKE"}
    assert 0 <= result["confidence"] <= 1
    assert result["processing_time"] > 0
    assert result["dimensions"] == {"width": 137, "height": 90}
    scores = result["heatmap_scores"]
    assert (len(scores), len(scores[0])) == (90, 137)
    assert min(map(min, scores)) == 0
    assert 0.9 < max(map(max, scores)) <= 1


def test_the_visualization_is_written_when_asked_for(detector: Detector, photograph: Path):
    path = Path(detector.analyze(photograph, generate_visualizations=True)["visualization_path"])
    try:
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("PNG", (64, 64))
            levels = np.asarray(picture)
        eps = detector.noise_map(detector.preprocess(Image.open(photograph))[None])[0].numpy()
        expected = (eps - eps.min()) / (eps.max() - eps.min() + 1e-6) * 255
        np.testing.assert_allclose(levels, expected.transpose(1, 2, 0), atol=1.01)
    finally:
        path.unlink()


def test_a_turned_photograph_has_the_dimensions_that_people_see(detector: Detector, photograph: Path, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photograph).save(tmp_path / "turned.jpg", exif=exif)
    assert detector.analyze(tmp_path / "turned.jpg")["dimensions"] == {"width": 90, "height": 137}


def test_what_is_no_image_is_refused_with_a_code(detector: Detector, tmp_path: Path):
    (tmp_path / "photo.jpg").write_text("<svg/>")
    with pytest.raises(JobError) as caught:
        detector.analyze(tmp_path / "photo.jpg")
    assert caught.value.code == ErrorCode.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 64, 65), (1, 6, 64, 64)])
def test_a_batch_of_another_shape_is_refused(detector: Detector, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="TINY takes"):
        detector.detect(torch.zeros(shape))


def test_the_weights_identity_is_a_digest_of_both_files_digests(detector: Detector, tiny_files: Path):
    """As docs/models.md says it is made by hand."""
    by_hand = "sha256sum tiny-adm.safetensors tiny-student.pth | cut -d' ' -f1 | sha256sum"
    printed = subprocess.check_output(by_hand, shell=True, cwd=tiny_files, text=True)
    assert printed.split() == [detector.weights_sha256, "-"]


def test_warming_up_is_a_full_batch(detector: Detector, monkeypatch: pytest.MonkeyPatch):
    sizes = []
    monkeypatch.setattr(detector, "detect", lambda x: sizes.append(x.shape[0]))
    detector.warm_up(5)
    assert sizes == [5]


@pytest.mark.parametrize("device", ["tpu9", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_name(tiny_files: Path, device: str):
    with pytest.raises(ModelError, match=device):
        load_model("TINY", device=device, models_dir=tiny_files)


def test_auto_is_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch):
    cpu = torch.device("cpu")
    for capabilities, dtype in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert choose_dtype("auto", cpu) == dtype
    with pytest.raises(ModelError, match="int4"):
        choose_dtype("int4", cpu)  # type: ignore[arg-type]  # what a caller without a type checker may say


def test_auto_is_the_cards_precision_where_it_states_one(tiny_files: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_files, tmp_path / "models"))
    card = folder / "tiny.toml"
    card.write_text(card.read_text().replace("image_size = 64", 'image_size = 64\nprecision = "fp16"'))
    assert load_model("TINY", device="cpu", models_dir=folder).precision == "fp16"
    assert load_model("TINY", device="cpu", precision="bf16", models_dir=folder).precision == "bf16"  # one may choose


def test_a_student_of_dire_images_computes_in_float32_alone(
    tiny_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    folder = Path(shutil.copytree(tiny_files, tmp_path / "models"))
    card = folder / "tiny.toml"
    card.write_text(card.read_text().replace("[student]", '[student]\ninputs = "dire"'))
    assert choose(read_card(card), "cpu", "auto")[1] == choose(read_card(card), "cpu", "fp32")[1] == torch.float32
    for precision in ("bf16", "fp16"):
        with pytest.raises(ModelError, match=f"TINY reads DIRE images.*errors of {precision} add up.*fp32 or auto"):
            load_model("TINY", device="cpu", precision=precision, models_dir=folder)
    card.write_text(card.read_text().replace("image_size = 64", 'image_size = 64\nprecision = "bf16"'))
    with pytest.raises(ModelError, match="If the card states another precision, correct it"):
        load_model("TINY", device="cpu", models_dir=folder)


def test_every_public_name_is_what_it_says_after_torch_is_imported():
    """A module of the package that is called like one of its names takes that name's place when it is imported."""
    for name in worker.model.__all__:
        assert not isinstance(getattr(worker.model, name), ModuleType), name


def test_cards_are_read_without_torch():
    uses = "m.list_cards(); m.decide(0.0, m.DecisionRule(0.5))"
    code = f"import sys, worker.model as m; {uses}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
