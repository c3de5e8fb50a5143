"""Jobs that name a policy: which the API refuses, and how results tell of them."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from api.v1.schemas.jobs import Job
from shared.domain import AppliedPolicy, ConfidenceInterval, Stability
from shared.errors import ErrorCode
from tests.support.api_world import ApiWorld, png

STRICT = AppliedPolicy(
    name="strict",
    threshold=0.9,
    inconclusive_from=0.4,
    temperature=2.0,
    bias=-0.5,
    measured_fpr=0.004,
    fpr_interval=ConfidenceInterval(0.001, 0.012, 0.95),
    photographs=310,
)


def policy_of(api: ApiWorld, job_id: str) -> object:
    with api.around.database.begin() as session:
        return session.scalar(text("SELECT policy FROM jobs WHERE id = :id"), {"id": job_id})


@pytest.mark.parametrize("name", ["", " strict", "../strict", "-strict", "strict\n", "s" * 101, "strängt"])
def test_what_no_policy_can_be_called_is_refused(api: ApiWorld, name: str) -> None:
    answer = api.one.post_form(png(), policy=name)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_field")
    assert answer.json["errors"][0]["field"] == "policy"


def test_a_policy_that_no_worker_has_is_refused_and_nothing_is_stored(api: ApiWorld) -> None:
    """One worker that has it is enough: the others leave the job to it."""
    with api.working(policies=["strict"]), api.working(policies=["quick"]):
        assert policy_of(api, api.one.submit(policy="strict")) == "strict"
        refused = api.one.post_form(png(), policy="lax")
    assert (refused.status_code, refused.json["code"]) == (422, "unknown_policy")
    assert refused.json["errors"][0]["field"] == "policy"
    assert len(api.one.get("/v1/jobs").json["items"]) == 1


def test_where_no_worker_can_say_the_job_is_accepted(api: ApiWorld) -> None:
    assert policy_of(api, api.one.submit(policy="strict")) == "strict"


def test_what_a_silent_worker_had_does_not_count(api: ApiWorld) -> None:
    with api.working(policies=[]), api.around.database.begin() as session:
        session.execute(text("UPDATE workers SET heartbeat_at = now() - interval '1 minute'"))
        session.commit()
        job_id = api.one.submit(policy="strict")
    assert policy_of(api, job_id) == "strict"


def test_a_submission_that_comes_again_is_answered_although_its_policy_is_gone(api: ApiWorld) -> None:
    api.one.headers["Idempotency-Key"] = "once"
    job_id = api.one.submit(policy="strict")
    with api.working(policies=[]):
        assert api.one.submit(policy="strict") == job_id
        other = api.one.post_form(png(), policy="lax")
    assert other.json["code"] == "idempotency_key_reused"


def test_a_replay_keeps_the_policy_and_needs_it(api: ApiWorld) -> None:
    api.one.submit(policy="strict")
    old = api.fail_next(ErrorCode.MODEL_UNAVAILABLE)
    with api.working(policies=[]):
        assert api.one.post(f"/v1/jobs/{old}/replay").json["code"] == "unknown_policy"
    with api.working(policies=["strict"]):
        new = api.one.post(f"/v1/jobs/{old}/replay").json["id"]
    assert policy_of(api, new) == "strict"


def test_stability_is_asked_for_by_name_and_only_then(api: ApiWorld) -> None:
    def asked(job_id: str) -> object:
        with api.around.database.begin() as session:
            return session.scalar(text("SELECT stability FROM jobs WHERE id = :id"), {"id": job_id})

    assert not asked(api.one.submit())
    assert not asked(api.one.submit(stability="false"))
    api.one.headers["Idempotency-Key"] = "once"
    assert asked(api.one.submit(stability="true"))
    assert api.one.post_form(png()).json["code"] == "idempotency_key_reused"  # another option is another submission
    assert api.one.post_form(png(), stability="maybe").json["errors"][0]["field"] == "stability"


def test_a_result_says_how_stable_it_is(api: ApiWorld) -> None:
    api.one.submit(stability="true")
    job_id = api.succeed_next(changes={"stability": Stability(0.25, 0.4, 0.9, 5)})
    document = api.one.get(f"/v1/jobs/{job_id}").json
    Job.model_validate(document)
    expected = {"flip_rate": 0.25, "probability_min": 0.4, "probability_max": 0.9, "passes": 5}
    assert document["result"]["stability"] == expected


def test_a_result_names_its_policy_with_what_was_measured_of_it(api: ApiWorld) -> None:
    api.one.submit()
    called = {"prediction": "INCONCLUSIVE", "confidence": 0.6, "probability_fake": 0.6, "threshold": 0.9}
    job_id = api.succeed_next(changes=called | {"raw_probability_fake": 0.86, "policy": STRICT})
    document = api.one.get(f"/v1/jobs/{job_id}").json
    Job.model_validate(document)
    result = document["result"]
    assert (result["prediction"], result["probability_fake"], result["threshold"]) == ("INCONCLUSIVE", 0.6, 0.9)
    assert result["raw_probability_fake"] == 0.86
    assert result["policy"] == {
        "name": "strict",
        "threshold": 0.9,
        "inconclusive_from": 0.4,
        "temperature": 2.0,
        "bias": -0.5,
        "measured_fpr": 0.004,
        "fpr_interval": {"low": 0.001, "high": 0.012, "confidence": 0.95},
        "photographs": 310,
    }


def test_a_result_from_before_there_were_policies_has_the_models_own_probability(api: ApiWorld) -> None:
    api.one.submit()
    job_id = api.succeed_next()
    with api.around.database.begin() as session:
        session.execute(text("UPDATE results SET raw_probability_fake = NULL"))
    document = api.one.get(f"/v1/jobs/{job_id}").json
    Job.model_validate(document)
    assert (document["result"]["raw_probability_fake"], document["result"]["policy"]) == (0.87, None)
