"""Weights: every wrong file is one error that names the file, the key and the remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from worker.model import ModelError, find_card, load_model
from worker.model.weights.digests import Algorithm, digests
from worker.model.weights.state_dicts import read_state

ADM, STUDENT = "tiny-adm.safetensors", "tiny-student.pth"


@pytest.fixture
def folder(tiny_files: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to spoil."""
    return Path(shutil.copytree(tiny_files, tmp_path / "models"))


def state_digest(folder: Path, section: str, line: str) -> None:
    card = folder / "tiny.toml"
    card.write_text(card.read_text().replace(f"[{section}]", f"[{section}]\n{line}"))


def complaint(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model("TINY", device="cpu", models_dir=folder)
    return caught.value.message


def test_a_missing_file(folder: Path):
    (folder / ADM).unlink()
    assert ADM in complaint(folder)
    assert "DISTILDIRE_MODELS_DIR" in complaint(folder)


@pytest.mark.parametrize("name", [ADM, STUDENT])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_truncated_file(folder: Path, name: str, share: float):
    os.truncate(folder / name, int((folder / name).stat().st_size * share))
    assert f"{folder / name} cannot be read as weights" in complaint(folder)
    assert "Fetch the file again" in complaint(folder)


@pytest.mark.parametrize("name", [ADM, STUDENT])
def test_a_file_of_something_else(folder: Path, name: str):
    (folder / name).write_bytes(b"<!doctype html><title>404</title>" * 100)
    assert f"{folder / name} cannot be read as weights" in complaint(folder)


@pytest.mark.parametrize(("section", "name"), [("adm", ADM), ("student", STUDENT)])
@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_with_one_altered_byte(folder: Path, section: str, name: str, algorithm: Algorithm):
    state_digest(folder, section, f'{algorithm} = "{digests(folder / name, [algorithm])[algorithm]}"')
    load_model("TINY", device="cpu", models_dir=folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert f"{folder / name} is not the file that its card describes: its {algorithm} is" in complaint(folder)


class Payload:
    """A pickle that would run a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_a_pickle_that_runs_code_is_refused_unrun(folder: Path, tmp_path: Path):
    torch.save({"model": Payload(tmp_path / "trace")}, folder / STUDENT)
    assert "which could run code" in complaint(folder)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.pop("middle_block.1.qkv.weight"), "middle_block.1.qkv.weight is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is unknown to the architecture"),
        (
            lambda state: state.update({"out.2.bias": torch.zeros(3)}),
            "out.2.bias has the shape (3,) instead of (6,)",
        ),
        (
            lambda state: state.update({"out.2.bias": torch.zeros(6, dtype=torch.int64)}),
            "out.2.bias holds torch.int64 instead of torch.float32",
        ),
    ],
)
def test_weights_of_another_architecture(folder: Path, change: Callable[[dict[str, Tensor]], object], fault: str):
    state = read_state(folder / ADM)
    change(state)
    save_file(state, folder / ADM)
    assert f"{folder / ADM} does not fit the architecture in its card: {fault}" in complaint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(folder: Path, value: float):
    state = read_state(folder / ADM)
    state["middle_block.1.qkv.weight"][3, 2] = value
    save_file(state, folder / ADM)
    assert f"{folder / ADM}: middle_block.1.qkv.weight holds NaN or infinity" in complaint(folder)
    assert "Fetch the file again" in complaint(folder)


def test_the_networks_exchanged(folder: Path):
    save_file(read_state(folder / ADM), folder / "adm-as-student.safetensors")
    card = folder / "tiny.toml"
    card.write_text(card.read_text().replace(STUDENT, "adm-as-student.safetensors"))
    assert f"{folder / 'adm-as-student.safetensors'} does not fit the architecture in its card: student_" in complaint(
        folder
    )


def test_a_card_of_another_architecture(folder: Path):
    card = folder / "tiny.toml"
    card.write_text(card.read_text().replace("num_res_blocks = 1", "num_res_blocks = 2"))
    assert "such faults). Correct the card's sections" in complaint(folder)


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"model": {}}, {"a": {"b": torch.zeros(1)}}])
def test_a_file_without_a_state_dict(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="state"):
        read_state(tmp_path / "odd.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_published_form_is_understood(tmp_path: Path, zipped: bool):
    state = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    path = tmp_path / "weights.pt"
    for content in (state, wrapped, {"model": state}, {"model": wrapped, "optimizer": {"lr": 1e-4}}):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert read_state(path).keys() == state.keys()


def test_half_precision_weights_are_widened(folder: Path):
    save_file({name: tensor.half() for name, tensor in read_state(folder / ADM).items()}, folder / ADM)
    model = load_model("TINY", device="cpu", precision="fp32", models_dir=folder)
    assert model.noise_map(torch.zeros(1, 3, 64, 64)).dtype == torch.float32


def test_a_loaded_model_survives_that_its_file_is_cut(folder: Path):
    """A file mapped into memory would end the process with SIGBUS."""
    model = load_model("TINY", device="cpu", precision="fp32", models_dir=folder)
    before = model.noise_map(torch.zeros(1, 3, 64, 64))
    os.truncate(folder / ADM, 0)
    assert torch.equal(model.noise_map(torch.zeros(1, 3, 64, 64)), before)


def test_a_backbone_that_does_not_exist_names_the_card(folder: Path):
    card = folder / "tiny.toml"
    card.write_text(card.read_text().replace("mobilenet_v3_small", "mobilenet_v9"))
    assert f"{folder / 'tiny.toml'}: student.backbone" in complaint(folder)


def test_a_file_without_a_digest_is_used_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture):
    assert find_card("TINY", folder).card.adm.sha256 is None
    load_model("TINY", device="cpu", models_dir=folder)
    assert "states no digest of tiny-adm.safetensors" in caplog.text


def test_torchs_compiler_is_not_imported_to_serve_a_model():
    """It would double the time in which a worker starts."""
    program = (
        "import sys; from worker.model import load_model; from worker.inference.device import settle_batch\n"
        "settle_batch(load_model('DISTILDIRE-DEMO', device='cpu'), 2)\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
