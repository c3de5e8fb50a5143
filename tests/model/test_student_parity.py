"""The student agrees with the published code, and other backbones can take its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.reference import Measure, Reference
from worker.model.cards.schema import StudentConfig
from worker.model.networks.student import Student


@torch.inference_mode()
def test_logit_and_feature_agree(reference: Reference, relative_error: Measure):
    student = Student(StudentConfig(backbone="resnet50"))
    assert {name: list(t.shape) for name, t in student.state_dict().items()} == reference.shapes("student_resnet50")
    student.load_state_dict(reference.state("student_resnet50", 202))
    random = np.random.RandomState(8)
    x = torch.from_numpy((random.rand(2, 3, 256, 256) * 2 - 1).astype(np.float32))
    eps = torch.from_numpy(random.standard_normal((2, 3, 256, 256)).astype(np.float32))

    output = student.eval()(x, eps)
    golden = reference.golden("student_resnet50")
    assert relative_error(output.logit, golden["logit"]) < 1e-4
    assert relative_error(output.feature, golden["feature"]) < 1e-4


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [("resnet18", 512), ("efficientnet_b0", 1280), ("mobilenet_v3_small", 576), ("convnext_tiny", 768)],
)
@torch.inference_mode()
def test_any_backbone_with_a_feature_map_will_do(backbone: str, channels: int):
    student = Student(StudentConfig(backbone=backbone)).eval()
    output = student(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 64, 64))
    assert output.logit.shape == (2, 1)
    assert output.feature.shape == (2, channels, 2, 2)


@torch.inference_mode()
def test_a_small_image_is_enlarged_before_the_backbone():
    student = Student(StudentConfig(backbone="resnet18", input_size=256)).eval()
    output = student(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))
    assert output.feature.shape == (1, 512, 8, 8)


@torch.inference_mode()
def test_the_student_reads_the_noise():
    student = Student(StudentConfig(backbone="resnet18")).eval()
    x = torch.zeros(1, 3, 64, 64)
    assert not torch.equal(student(x, x).feature, student(x, torch.ones_like(x)).feature)


@pytest.mark.parametrize("backbone", ["resnet51", "vit_b_16", "fcn_resnet50"])
def test_what_is_no_such_backbone_is_refused_by_name(backbone: str):
    with pytest.raises(ValueError, match=backbone):
        Student(StudentConfig(backbone=backbone))
