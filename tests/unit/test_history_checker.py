"""The chaos suite's checker catches each kind of broken promise, planted into the evidence of a run that kept all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.checker import Broken, check
from tests.chaos.evidence import (
    Accepted,
    DeliveryFacts,
    Evidence,
    JobFacts,
    Observed,
    Receipt,
    ResultFacts,
    Snapshot,
    StoredObject,
)

OK = JobFacts("ok", "one", "succeeded", "ok/source", ("heatmap",), "digest of ok")
BAD = JobFacts("bad", "one", "failed", "bad/source", ("heatmap",), "digest of bad")
RESULT = ResultFacts("ok", (StoredObject("heatmap", "ok/1/heatmap.png", "sha of heatmap"),))
RECEIPTS = (
    Receipt("/a", "msg-1", "ok", "sha of body 1", answered=False),
    Receipt("/a", "msg-1", "ok", "sha of body 1", answered=True),
    Receipt("/a", "msg-2", "bad", "sha of body 2", answered=True),
)
SOUND = Evidence(
    accepted=(Accepted("ok", "one", "sha of ok", 1.0), Accepted("bad", "one", "sha of bad", 2.0)),
    observed=(Observed("ok", "succeeded", "webhook"), Observed("bad", "failed", "GET")),
    snapshots=(Snapshot("ok", "digest of ok", 3.0), Snapshot("ok", "digest of ok", 4.0)),
    jobs=(OK, BAD),
    results=(RESULT,),
    stored={"ok/source": "sha of ok", "bad/source": "sha of bad", "ok/1/heatmap.png": "sha of heatmap"},
    endpoints={"one": ("/a",)},
    deliveries=(DeliveryFacts("msg-1", "ok", "/a", "delivered"), DeliveryFacts("msg-2", "bad", "/a", "delivered")),
    receipts=RECEIPTS,
)


def without(key: str) -> dict[str, str]:
    return {name: digest for name, digest in SOUND.stored.items() if name != key}


def test_a_run_that_kept_every_promise_shows_no_violation():
    assert check(SOUND) == []


def test_deaths_that_incidents_explain_are_no_violation():
    died_twice = replace(OK, deaths=2, created=1.0, ended=5.0)
    assert check(replace(SOUND, jobs=(died_twice, BAD), incidents=(0.5, 2.0, 3.0, 6.0))) == []


def test_a_job_whose_202_never_arrived_must_end_too_but_is_not_lost():
    unknown = replace(BAD, job="unknown", state="queued")
    found = check(replace(SOUND, jobs=(*SOUND.jobs, unknown)))
    assert [(each.broken, each.job) for each in found] == [(Broken.STUCK, "unknown")]


PLANTED = {
    "a lost job": (Broken.LOST, "gone", {"accepted": (*SOUND.accepted, Accepted("gone", "one", "sha", 5.0))}),
    "a queued job": (Broken.STUCK, "bad", {"observed": (), "jobs": (OK, replace(BAD, state="queued"))}),
    "a running job": (Broken.STUCK, "bad", {"observed": (), "jobs": (OK, replace(BAD, state="running"))}),
    "a second row": (Broken.DOUBLED, "bad", {"jobs": (OK, BAD, BAD)}),
    "one id given twice": (Broken.DOUBLED, "ok", {"accepted": (*SOUND.accepted, SOUND.accepted[0])}),
    "a second result": (Broken.DOUBLED, "ok", {"results": (RESULT, RESULT)}),
    "no result": (Broken.RESULT, "ok", {"results": ()}),
    "a result of a failed job": (Broken.RESULT, "bad", {"results": (RESULT, ResultFacts("bad", ()))}),
    "a picture too few": (Broken.RESULT, "ok", {"results": (ResultFacts("ok", ()),)}),
    "a row that changed at the end": (Broken.CHANGED, "ok", {"jobs": (replace(OK, digest="another"), BAD)}),
    "a row that changed for a while": (
        Broken.CHANGED,
        "ok",
        {"snapshots": (*SOUND.snapshots, Snapshot("ok", "another", 5.0))},
    ),
    "an ended row that went": (
        Broken.CHANGED,
        "old",
        {"snapshots": (*SOUND.snapshots, Snapshot("old", "digest of old", 5.0))},
    ),
    "another outcome told": (Broken.CONTRADICTED, "ok", {"observed": (Observed("ok", "failed", "webhook"),)}),
    "a missing picture": (Broken.ARTIFACT_MISSING, "ok", {"stored": without("ok/1/heatmap.png")}),
    "a missing upload": (Broken.ARTIFACT_MISSING, "bad", {"stored": without("bad/source")}),
    "a changed picture": (
        Broken.ARTIFACT_CHANGED,
        "ok",
        {"stored": {**SOUND.stored, "ok/1/heatmap.png": "sha of something else"}},
    ),
    "a changed upload": (Broken.ARTIFACT_CHANGED, "ok", {"stored": {**SOUND.stored, "ok/source": "sha of half"}}),
    "a webhook never received": (Broken.WEBHOOK_MISSING, "bad", {"receipts": RECEIPTS[:2]}),
    "a webhook only received to be refused": (Broken.WEBHOOK_MISSING, "ok", {"receipts": (RECEIPTS[0], RECEIPTS[2])}),
    "a webhook not known to be received": (
        Broken.WEBHOOK_MISSING,
        "bad",
        {"deliveries": (SOUND.deliveries[0], replace(SOUND.deliveries[1], state="pending"))},
    ),
    "a second webhook row": (
        Broken.WEBHOOK_DOUBLED,
        "bad",
        {"deliveries": (*SOUND.deliveries, DeliveryFacts("msg-3", "bad", "/a", "delivered"))},
    ),
    "a webhook with another body": (
        Broken.WEBHOOK_CHANGED,
        "ok",
        {"receipts": (*RECEIPTS, replace(RECEIPTS[0], body_sha256="sha of another"))},
    ),
    "a webhook at another's endpoint": (
        Broken.WEBHOOK_UNKNOWN,
        "ok",
        {"receipts": (*RECEIPTS, replace(RECEIPTS[1], endpoint="/b"))},
    ),
    "a death that nothing explains": (
        Broken.OVERCOUNTED,
        "ok",
        {"jobs": (replace(OK, deaths=2, created=1.0, ended=5.0), BAD), "incidents": (0.5, 2.0, 6.0)},
    ),
    "an innocent that is called a killer": (
        Broken.EXHAUSTED,
        "bad",
        {"jobs": (OK, replace(BAD, error="attempts_exhausted"))},
    ),
    "a worker that is gone": (Broken.GHOST, "-", {"ghosts": ("host:17",)}),
}


@pytest.mark.parametrize(("broken", "job", "planted"), PLANTED.values(), ids=PLANTED)
def test_a_planted_violation_is_caught_and_nothing_else_is_said(broken: Broken, job: str, planted: dict[str, object]):
    found = check(replace(SOUND, **planted))  # type: ignore[arg-type]  # fields by name
    assert [(each.broken, each.job) for each in found] == [(broken, job)]


def test_a_second_webhook_id_is_caught_at_the_receiver_too():
    found = check(replace(SOUND, receipts=(*RECEIPTS, replace(RECEIPTS[1], message="msg-9"))))
    assert {each.broken for each in found} == {Broken.WEBHOOK_DOUBLED, Broken.WEBHOOK_UNKNOWN}
