"""Policies: judging by one, and files that are wrong, foreign or renamed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import JobError
from tests.support.policies import STRICT
from worker.model.cards.registry import BUNDLED, InstalledCard, find_card
from worker.model.verdicts.policy import PolicyError
from worker.model.verdicts.policy_files import (
    images_of,
    list_policies,
    load_policies,
    load_policy,
    policy_place,
    read_policy,
    write_policy,
)
from worker.model.verdicts.verdict import calibrated_probability, decide

NAME, WEIGHTS = STRICT.model, STRICT.weights_sha256


@pytest.fixture
def installed(tmp_path: Path) -> InstalledCard:
    """A model of the operator's own, with the policy `strict`."""
    card = find_card("DISTILDIRE-DEMO").card.model_copy(update={"name": NAME})
    found = InstalledCard(card, tmp_path / "card.toml", (tmp_path, BUNDLED))
    write_policy(STRICT, policy_place("strict", found))
    return found


def raw(calibrated: float) -> float:
    """The logit that STRICT makes `calibrated` of."""
    return (math.log(calibrated / (1 - calibrated)) + 0.5) * 2


@pytest.mark.parametrize(
    ("calibrated", "prediction", "confidence"),
    [
        (0.81, "FAKE", 0.81),
        (0.79, "INCONCLUSIVE", 0.79),
        (0.31, "INCONCLUSIVE", 0.69),
        (0.29, "REAL", 0.71),
    ],
)
def test_a_policy_decides(calibrated: float, prediction: str, confidence: float):
    verdict = decide(raw(calibrated), STRICT.decision_rule)
    assert verdict.prediction == prediction
    assert verdict.confidence == pytest.approx(confidence)
    assert verdict.probability_fake == pytest.approx(calibrated)


def test_reaching_the_threshold_is_enough():
    plain = STRICT.model_copy(update={"temperature": 1.0, "bias": 0.0, "threshold": 0.5, "inconclusive_from": None})
    assert decide(0.0, plain.decision_rule).prediction == "FAKE"
    assert decide(-0.0001, plain.decision_rule).prediction == "REAL"


def test_reaching_the_band_is_enough():
    plain = STRICT.model_copy(update={"temperature": 1.0, "bias": 0.0, "threshold": 0.8, "inconclusive_from": 0.5})
    assert decide(0.0, plain.decision_rule).prediction == "INCONCLUSIVE"
    assert decide(-0.0001, plain.decision_rule).prediction == "REAL"


def test_near_certainty_is_told_apart():
    assert calibrated_probability(40.0, 20.0, 0.0) < calibrated_probability(60.0, 20.0, 0.0) < 1


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_no_verdict_of_what_is_no_number(wrong: float):
    with pytest.raises(JobError, match="instead of a number"):
        decide(wrong, STRICT.decision_rule)


def test_what_was_written_is_read_again(installed: InstalledCard):
    assert load_policy("strict", installed, WEIGHTS, "fp32") == STRICT


def test_the_images_of_a_policy_are_known_where_their_list_is_beside_it(installed: InstalledCard):
    assert images_of(STRICT, installed) is None
    place = policy_place("lax", installed)
    lax = STRICT.model_copy(update={"name": "lax"})
    write_policy(lax, place, ["a1", "b2"])
    assert images_of(lax, installed) == frozenset({"a1", "b2"})
    assert {path.stem for path in list_policies(installed)} == {"strict", "lax"}
    other = lax.model_copy(update={"evidence": lax.evidence.model_copy(update={"data_sha256": "cd" * 32})})
    assert images_of(other, installed) is None, "the list is that of other images"
    place.with_name("lax.images.json").write_text("{")
    with pytest.raises(PolicyError, match=r"lax\.images\.json is not a list .* wrote, or remove it"):
        images_of(lax, installed)


def test_a_policy_for_other_weights_is_refused(installed: InstalledCard):
    with pytest.raises(PolicyError, match=r"made for the weights abab.* Calibrate again"):
        load_policy("strict", installed, "cd" * 32, "fp32")


def test_a_policy_for_another_precision_is_refused(installed: InstalledCard):
    with pytest.raises(PolicyError, match="DISTILDIRE_PRECISION=fp32"):
        load_policy("strict", installed, WEIGHTS, "bf16")


def test_an_unknown_policy_is_refused_with_the_names_of_the_others(installed: InstalledCard):
    with pytest.raises(PolicyError, match=r"no policy named 'lax'\. Its policies: strict\.") as caught:
        load_policy("lax", installed, WEIGHTS, "fp32")
    assert f"into {policy_place('lax', installed).parent}." in caught.value.message


def test_an_unknown_policy_is_told_how_many_others_there_are(installed: InstalledCard):
    write_policy(STRICT.model_copy(update={"name": "lax"}), policy_place("lax", installed))
    with pytest.raises(PolicyError, match=r"Its policies: lax, strict\."):
        load_policy("quick", installed, WEIGHTS, "fp32")
    for path in list_policies(installed):
        path.unlink()
    with pytest.raises(PolicyError, match=r"Its policies: none\."):
        load_policy("quick", installed, WEIGHTS, "fp32")


def test_all_faults_of_a_file_are_told_each_by_where_it_is(installed: InstalledCard):
    [path] = list_policies(installed)
    wrong = path.read_text().replace("threshold = 0.8", "threshold = 1.8").replace("real_groups = ", "real_groups = -")
    path.write_text(wrong)
    with pytest.raises(PolicyError, match=r"is wrong: threshold: Input .+; evidence\.real_groups: Input .+\. Correct"):
        load_policy("strict", installed, WEIGHTS, "fp32")
    write_policy(STRICT.model_copy(update={"inconclusive_from": 0.9}), path)
    with pytest.raises(PolicyError, match=r"is wrong: policy: Value error, inconclusive_from must be below"):
        load_policy("strict", installed, WEIGHTS, "fp32")


def test_all_policies_are_loaded_by_their_names(installed: InstalledCard):
    lax = STRICT.model_copy(update={"name": "lax", "inconclusive_from": None})
    write_policy(lax, policy_place("lax", installed))
    assert load_policies(installed, WEIGHTS, "fp32") == ({"lax": lax, "strict": STRICT}, ())


def test_policies_that_cannot_be_used_are_left_out_each_with_file_reason_and_remedy(installed: InstalledCard):
    for name, changes in (("other", {"weights_sha256": "cd" * 32}), ("quick", {"precision": "bf16"})):
        write_policy(STRICT.model_copy(update={"name": name, **changes}), policy_place(name, installed))
    wrong = policy_place("wrong", installed)
    wrong.write_text("name = ")
    usable, problems = load_policies(installed, WEIGHTS, "fp32")
    assert usable == {"strict": STRICT}
    told = {
        "other": ("made for the weights cdcd", "Calibrate again"),
        "quick": ("made in bf16", "DISTILDIRE_PRECISION=bf16"),
        "wrong": ("cannot be read", "Correct or remove it"),
    }
    for (name, (reason, remedy)), problem in zip(told.items(), problems, strict=True):
        assert f"The policy {wrong.with_stem(name)} " in problem
        assert reason in problem
        assert remedy in problem


def test_what_is_not_known_of_a_model_is_not_held_against_its_policies(installed: InstalledCard):
    write_policy(STRICT.model_copy(update={"name": "quick", "precision": "bf16"}), policy_place("quick", installed))
    assert list(load_policies(installed, None, None)[0]) == ["quick", "strict"]


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("threshold = 0.8", "threshold = 1.8", "threshold: Input should be less than or equal to 1"),
        ("threshold = 0.8", "treshold = 0.8", "treshold: Extra inputs are not permitted"),
        ("temperature = 2.0", "temperature = 0.0", "temperature: Input should be greater than 0"),
        ("inconclusive_from = 0.3", "inconclusive_from = 0.9", "inconclusive_from must be below threshold"),
        ("inconclusive_from = 0.3", "inconclusive_from = 0.8", "inconclusive_from must be below threshold"),
        ("bias = -0.5", "bias = nan", "bias: Input should be a finite number"),
        ("bias = -0.5", "bias = ", "cannot be read"),
        ('name = "strict"', 'name = "default"', "'default' means that no policy is used: choose another name"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(installed: InstalledCard, before: str, after: str, complaint: str):
    [path] = list_policies(installed)
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(PolicyError, match=complaint):
        load_policy("strict", installed, WEIGHTS, "fp32")


def test_a_renamed_policy_is_refused(installed: InstalledCard):
    [path] = list_policies(installed)
    path.rename(path.with_stem("lax"))
    with pytest.raises(PolicyError, match="holds the policy 'strict' of"):
        load_policy("lax", installed, WEIGHTS, "fp32")


def test_a_policy_is_written_into_folders_that_are_not_there_yet(tmp_path: Path):
    place = tmp_path / "models" / f"{NAME}.policies" / "strict.toml"
    write_policy(STRICT, place)
    assert read_policy(place) == STRICT


def test_a_policy_that_cannot_be_written_is_told_with_the_reason(tmp_path: Path):
    (tmp_path / "taken").write_text("no folder")
    place = tmp_path / "taken" / "strict.toml"
    with pytest.raises(PolicyError, match=r"strict\.toml cannot be written: .+\. No part of it was kept"):
        write_policy(STRICT, place)


def test_a_policy_is_never_overwritten(installed: InstalledCard):
    with pytest.raises(PolicyError, match="Choose another name"):
        policy_place("strict", installed)


def test_policies_are_not_written_into_the_package():
    with pytest.raises(PolicyError, match="DISTILDIRE_MODELS_DIR"):
        policy_place("strict", replace(find_card("DISTILDIRE-DEMO"), folders=(BUNDLED,)))
