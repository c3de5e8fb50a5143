"""What commands print of shares and probabilities: none is rounded to none, all or certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.bench.distillation_report import interval_text
from deploy.commands import calibrate, evaluate
from deploy.terminal.models import describe_lines
from tests.support.policies import STRICT
from worker.evaluation.estimates import Estimate
from worker.metrics.intervals import EstimateInterval
from worker.model.cards.registry import InstalledCard, find_card
from worker.model.cards.schema import CardEvaluation


def test_calibrate_prints_no_share_as_none_or_all_that_is_neither(capsys: pytest.CaptureFixture[str]):
    measured = {"measured_fpr": 1e-6, "fpr_upper_bound": 0.999999, "missed_fakes": 0.9999, "confidence": 0.999}
    evidence = STRICT.evidence.model_copy(update=measured)
    policy = STRICT.model_copy(update={"threshold": 0.99999, "inconclusive_from": 0.00001, "evidence": evidence})
    calibrate.show_policy(policy, Path("strict.toml"))
    told = " ".join(capsys.readouterr().out.split())
    assert "threshold >0.9999, temperature 2.000" in told
    assert "real images classified as FAKE: <0.01% of 300, with 99.9% confidence at most >99.99%" in told
    assert "fakes classified as REAL: >99.9% of 40, 99.9% interval" in told
    assert "inconclusive from <0.0001 up to the threshold" in told


@pytest.mark.parametrize(
    ("value", "low", "high", "told"),
    [
        (0.9997, 0.9953, 1.0, (">0.999", "0.995 – 1.000")),
        (0.0004, 0.0, 0.00001, ("<0.001", "0.000 – <0.001")),
        (0.75, 0.7, 0.8, ("0.750", "0.700 – 0.800")),
        (1.0, 0.832, 1.0, ("≥ 0.832", "0.832 – 1.000")),
        (0.0, 0.0, 0.168, ("≤ 0.168", "0.000 – 0.168")),
    ],
)
def test_evaluate_prints_no_figure_as_perfect_that_is_not(value: float, low: float, high: float, told: tuple[str, str]):
    assert evaluate.estimate_texts(Estimate(value, low, high)) == told


def test_models_show_prints_no_figure_as_perfect_that_is_not():
    installed = find_card("DISTILDIRE-DEMO")
    [(name, measured)] = list(installed.card.evaluations.items())[:1]
    figures = {
        "estimates": {"accuracy": (0.9999, 0.9953, 1.0)},
        "average_precision_of": {"RGB alone": (1.0, 0.99999, 1)},
    }
    evaluation: CardEvaluation = measured.model_copy(update=figures)
    card = installed.card.model_copy(update={"evaluations": {name: evaluation}})
    lines = "\n".join(describe_lines(InstalledCard(card, installed.path, installed.folders)))
    assert "accuracy: >0.999 [dim]0.995 – 1.000[/]" in lines
    assert "RGB alone: >0.999 [dim]>0.999 – 1.000[/]" in lines


def test_bench_prints_no_interval_as_perfect_that_is_not():
    assert interval_text(EstimateInterval(0.9953, 0.99999)) == "0.995 … >0.999"
    assert interval_text(EstimateInterval(-0.0001, 0.25), sign="+") == "-0.000 … +0.250"
    assert interval_text(EstimateInterval(float("nan"), float("nan"))) == "–"
