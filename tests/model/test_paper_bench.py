"""What DistilDIRE saves of DIRE is counted on the networks themselves, and timed side by side."""

from __future__ import annotations

import pytest
import torch

from deploy.bench.model import count_gflop, first_step
from deploy.bench.paper import Comparison, Cost, compare, reconstructed
from worker.model.cards.registry import find_card
from worker.model.cards.schema import ModelCard


@pytest.fixture
def card() -> ModelCard:
    return find_card("DISTILDIRE-DEMO").card


@pytest.mark.slow
def test_dire_takes_forty_passes_of_the_unet_for_one(card: ModelCard):
    rival = card.model_copy(update={"student": card.student.model_copy(update={"inputs": "dire"})})
    one, forty = count_gflop(card, first_step), count_gflop(rival, reconstructed)
    unet = (forty - one) / 39  # the students differ by three input channels
    assert unet < one < 1.5 * unet


@pytest.mark.slow
def test_both_are_timed_in_one_run(card: ModelCard):
    found = compare(card, torch.device("cpu"), "fp32", rounds=1, batch=2)
    assert found.precision == "float32"
    assert found.dire.seconds > 10 * found.distilled.seconds > 0


@pytest.mark.parametrize(
    ("dire", "distilled", "kept"),
    [
        (Cost(4000, 40.0), Cost(100, 1.0), True),
        (Cost(4000, 36.0), Cost(100, 1.0), True),
        (Cost(4000, 35.9), Cost(100, 1.0), False),  # 0.9 of the counted ratio is 36
        (Cost(3300, 40.0), Cost(100, 1.0), False),  # 96.97 % fewer
    ],
)
def test_the_promise_is_held_against_operations_and_seconds(dire: Cost, distilled: Cost, kept: bool):
    assert Comparison(dire, distilled, "float32", "the processor").kept is kept
