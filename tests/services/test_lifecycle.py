"""The life of a job, on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

from shared import lifecycle, workers
from shared.crypto import Vault
from shared.database import Database
from shared.endpoints import create_endpoint
from shared.errors import DatabaseUnavailableError, ErrorCode, JobError, LeaseLostError
from shared.jobs import (
    EVENT_TYPES,
    PROBE_PASSES,
    AppliedPolicy,
    Artifact,
    ClaimedJob,
    Interval,
    JobResult,
    JobState,
    ModelIdentity,
    NewJob,
    Stability,
    Stage,
)
from shared.tables import Job, Result, Tenant, WebhookDelivery
from shared.workers import Condition, Role, WorkerIdentity, WorkerState
from tests.databases import add_tenant

LEASE = timedelta(seconds=30)
DEADLINE = timedelta(hours=1)
VAULT = Vault("a secret key for tests, 32 chars at least")

RESULT = JobResult(
    prediction="FAKE",
    confidence=0.9,
    probability_fake=0.9,
    raw_probability_fake=0.99,
    threshold=0.8,
    policy=AppliedPolicy("strict", 0.8, None, 2.0, -0.1, 0.0, Interval(0.0, 0.012, 0.95), 300),
    stability=Stability(0.25, 0.7, 0.95, 5),
    processing_time=1.5,
    width=640,
    height=480,
    analyzed_region={"x": 80, "y": 0, "width": 480, "height": 480},
    media_type="image/jpeg",
    file_format="MPO",
    jpeg_quality=92,
    model=ModelIdentity("M", "ab" * 32, demonstration=True, device="cuda", precision="bf16"),
    timings={"decoding": 0.1},
    caveats=("Transparency was dropped.",),
    feature_mean=b"\0" * 16,
    feature_height=2,
    feature_width=2,
    artifacts={"heatmap": Artifact("t/j/1/heatmap.png", 10, "cd" * 32)},
)


def add_job(
    database: Database,
    tenant: UUID,
    *,
    priority: int = 0,
    model: str | None = None,
    policy: str | None = None,
    stability: bool = False,
) -> UUID:
    job_id = uuid4()
    source = (f"{job_id}/source", "00" * 32, 5, "image/png")
    new = NewJob(job_id, tenant, *source, priority=priority, model=model, policy=policy, stability=stability)
    with database.begin() as session:
        lifecycle.create(session, new, deadline=DEADLINE)
    return job_id


def claim(database: Database, model: str = "M") -> ClaimedJob | None:
    return lifecycle.claim(database, worker="w", model=model, lease=LEASE)


def claimed(database: Database) -> ClaimedJob:
    job = claim(database)
    assert job is not None
    return job


def read(database: Database, job_id: UUID) -> Job:
    with database.begin() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def end_lease(database: Database, job_id: UUID) -> None:
    with database.begin() as session:
        over, silent_since = func.now() - timedelta(seconds=1), func.now() - timedelta(hours=1)
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=over, beat_at=silent_since))


def test_a_claim_owns_the_job_before_it_returns(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    job = claimed(database)
    row = read(database, job_id)
    assert (job.id, job.attempt, job.suspect) == (job_id, 1, False)
    assert (row.state, row.stage, row.attempt, row.worker) == ("running", "fetching", 1, "w")
    assert claim(database) is None


def test_priority_goes_before_fairness_and_fairness_before_age(database: Database, tenant: UUID) -> None:
    first = add_job(database, tenant)
    second = add_job(database, tenant)
    other = add_job(database, add_tenant(database, "b"))
    urgent = add_job(database, tenant, priority=5)
    taken = [claimed(database).id for _ in range(4)]
    # The urgent one; then the tenant that has nothing running; then by age.
    assert taken == [urgent, other, first, second]


def test_fairness_counts_a_job_that_asks_for_stability_as_the_passes_it_costs(database: Database, tenant: UUID) -> None:
    add_job(database, tenant, stability=True)
    assert claimed(database).stability
    other = add_tenant(database, "b")
    for _ in range(PROBE_PASSES):
        add_job(database, tenant)
        add_job(database, other)
    taken = [claimed(database).tenant_id for _ in range(PROBE_PASSES)]
    assert taken == [other] * PROBE_PASSES


def test_a_job_for_another_model_is_left_alone(database: Database, tenant: UUID) -> None:
    add_job(database, tenant, model="other")
    assert claim(database, "M") is None
    assert claim(database, "other") is not None


def test_a_job_is_called_by_its_own_policy_or_else_its_tenants(database: Database, tenant: UUID) -> None:
    add_job(database, tenant, policy="asked")
    add_job(database, tenant)
    add_job(database, add_tenant(database, "b"))
    with database.begin() as session:
        session.execute(update(Tenant).where(Tenant.id == tenant).values(policy="default"))  # also for what waits
    policies = {claimed(database).policy for _ in range(3)}
    assert policies == {"asked", "default", None}


def test_claims_at_the_same_moment_take_each_job_once(database: Database, tenant: UUID) -> None:
    jobs = {add_job(database, tenant) for _ in range(30)}
    with ThreadPoolExecutor(8) as pool:
        taken = [job.id for job in pool.map(lambda _: claim(database), range(40)) if job]
    assert sorted(taken) == sorted(jobs)


def test_claims_at_the_same_moment_all_find_work_where_there_is_enough(database: Database) -> None:
    jobs = {add_job(database, add_tenant(database, f"tenant {number}")) for number in range(8)}
    together = Barrier(8)

    def claim_together(_: int) -> ClaimedJob | None:
        together.wait()
        return claim(database)

    with ThreadPoolExecutor(8) as pool:
        taken = [job.id for job in pool.map(claim_together, range(8)) if job]
    assert sorted(taken) == sorted(jobs)


def test_a_claim_that_is_not_committed_yet_hides_no_other_tenants_job(database: Database, tenant: UUID) -> None:
    jobs = {add_job(database, tenant), add_job(database, add_tenant(database, "b"))}
    with database.begin() as session:
        first = session.execute(lifecycle._CLAIM, lifecycle._claim_names("w", "M", LEASE, [])).one()
        assert {first.id, claimed(database).id} == jobs


def test_success_is_one_transaction_with_its_webhook(database: Database, tenant: UUID) -> None:
    with database.begin() as session:
        create_endpoint(session, VAULT, tenant, "https://example.org/all", EVENT_TYPES)
        create_endpoint(session, VAULT, tenant, "https://example.org/failures", ["job.failed"])
    job_id = add_job(database, tenant)
    lifecycle.succeed(database, job_id, claimed(database).attempt, RESULT)
    with database.begin() as session:
        row = session.get_one(Job, job_id)
        result = session.get_one(Result, job_id)
        delivery = session.scalars(select(WebhookDelivery)).one()
    assert (row.state, row.stage, row.lease_until) == ("succeeded", None, None)
    assert row.finished_at is not None
    assert (result.prediction, result.model_name, result.demonstration) == ("FAKE", "M", True)
    event = json.loads(delivery.body)
    assert event["type"] == "job.succeeded"
    assert event["data"]["result"]["probability_fake"] == 0.9
    assert event["data"]["result"]["raw_probability_fake"] == 0.99
    assert event["data"]["result"]["stability"] == {
        "flip_rate": 0.25,
        "probability_min": 0.7,
        "probability_max": 0.95,
        "passes": 5,
    }
    assert event["data"]["result"]["input"] == {
        "media_type": "image/jpeg",
        "format": "MPO",
        "jpeg_quality_estimate": 92,
    }
    assert event["data"]["result"]["policy"]["fpr_interval"] == {"low": 0.0, "high": 0.012, "confidence": 0.95}
    assert event["data"]["result"]["model"] == {
        "name": "M",
        "weights_sha256": "ab" * 32,
        "demonstration": True,
        "device": "cuda",
        "precision": "bf16",
    }
    assert event["data"]["artifacts"]["heatmap"]["sha256"] == "cd" * 32
    assert "key" not in event["data"]["artifacts"]["heatmap"]


def test_an_attempt_that_lost_its_lease_writes_nothing(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    stale = claimed(database)
    end_lease(database, job_id)
    lifecycle.sweep(database, max_attempts=3)
    current = claimed(database)
    with pytest.raises(LeaseLostError):
        lifecycle.succeed(database, job_id, stale.attempt, RESULT)
    with pytest.raises(LeaseLostError):
        lifecycle.fail(database, job_id, stale.attempt, JobError(ErrorCode.INTERNAL))
    assert lifecycle.heartbeat(database, {stale.fence: Stage.STORING}, lease=LEASE) == set()
    with database.begin() as session:
        assert session.get(Result, job_id) is None
    lifecycle.succeed(database, job_id, current.attempt, RESULT)
    assert read(database, job_id).state == "succeeded"


def test_a_heartbeat_extends_what_is_owned_and_tells_what_is_not(database: Database, tenant: UUID) -> None:
    kept, lost = add_job(database, tenant), add_job(database, tenant)
    fences = {job.id: job.fence for job in (claimed(database), claimed(database))}
    with database.begin() as session:
        lifecycle.cancel(session, tenant, lost)
    end_lease(database, kept)
    stages = {fences[kept]: Stage.DIFFUSING, fences[lost]: Stage.DIFFUSING}
    assert lifecycle.heartbeat(database, stages, lease=LEASE) == {fences[kept]}
    row = read(database, kept)
    assert row.stage == "diffusing"
    assert lifecycle.sweep(database, max_attempts=3) == lifecycle.SweepReport()


def dies(database: Database, *jobs: UUID) -> lifecycle.SweepReport:
    """Their worker does."""
    for job_id in jobs:
        end_lease(database, job_id)
    report = lifecycle.sweep(database, max_attempts=3)
    assert report is not None
    return report


def test_a_death_that_several_jobs_shared_counts_for_none_and_makes_each_a_suspect(
    database: Database, tenant: UUID
) -> None:
    jobs = [add_job(database, tenant) for _ in range(3)]
    for _ in range(5):
        assert {claimed(database).id for _ in jobs} == set(jobs)
        assert dies(database, *jobs).released == 3
    for job_id in jobs:
        row = read(database, job_id)
        assert (row.state, row.attempt, row.deaths, row.suspect, row.alone) == ("queued", 5, 0, True, False)
    assert claimed(database).suspect


def test_three_deaths_alone_end_a_job(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    claimed(database)
    dies(database, job_id)
    for deaths in (1, 2):
        lifecycle.begin_alone(database, *claimed(database).fence)
        report = dies(database, job_id)
        assert (report.released, report.queued) == (1, 1)
        row = read(database, job_id)
        assert (row.deaths, row.suspect, row.alone) == (deaths, True, False)
    claimed(database)
    dies(database, job_id)
    assert read(database, job_id).deaths == 2  # it had been claimed, and still shared its process
    lifecycle.begin_alone(database, *claimed(database).fence)
    assert dies(database, job_id).exhausted == 1
    row = read(database, job_id)
    assert (row.state, row.error_code, row.error_retryable) == ("failed", "attempts_exhausted", False)


def test_an_attempt_that_lost_its_job_does_not_begin_alone(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    stale = claimed(database)
    dies(database, job_id)
    claimed(database)
    with pytest.raises(LeaseLostError):
        lifecycle.begin_alone(database, *stale.fence)
    assert not read(database, job_id).alone


ANOTHER = WorkerIdentity("another", Role.ANALYSIS, "host", 1, None, None, "1.0")


def show(database: Database, worker: WorkerIdentity, state: WorkerState, *, model: str | None = "M") -> None:
    """Write that another worker lives."""
    workers.beat(database, worker, Condition(state, model=model), age=timedelta(0))


def silent_for(database: Database, job_id: UUID, seconds: float) -> None:
    with database.begin() as session:
        heard_of = func.now() - timedelta(seconds=seconds)
        session.execute(update(Job).where(Job.id == job_id).values(beat_at=heard_of))


@pytest.mark.parametrize("whose", ["the job's", "the tenant's"])
def test_a_job_is_left_to_a_ready_worker_that_has_its_policy(database: Database, tenant: UUID, whose: str) -> None:
    job_id, other = add_job(database, tenant), add_job(database, add_tenant(database, "b"))
    named = update(Job).where(Job.id == job_id) if whose == "the job's" else update(Tenant).where(Tenant.id == tenant)
    with database.begin() as session:
        session.execute(named.values(policy="strict"))
    condition = Condition(WorkerState.READY, model="M", policies=("strict", "another"))
    workers.beat(database, ANOTHER, condition, age=timedelta(0))
    assert claimed(database).id == other
    assert claim(database) is None
    assert not lifecycle.anything_waits(database, worker="w", model="M", lease=LEASE)
    mine = lifecycle.claim(database, worker="w", model="M", lease=LEASE, policies=["strict"])
    assert mine is not None
    assert (mine.id, mine.policy) == (job_id, "strict")


def test_a_job_whose_policy_nobody_has_is_not_left_waiting(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    with database.begin() as session:
        session.execute(update(Job).values(policy="strict"))
    show(database, ANOTHER, WorkerState.READY)
    assert claimed(database).id == job_id  # and fails, with a reason


@pytest.mark.parametrize(("model", "left"), [("M", False), (None, True)])
def test_a_job_is_left_only_to_a_worker_that_may_take_it(
    database: Database, tenant: UUID, model: str | None, left: bool
) -> None:
    job_id = add_job(database, tenant, model=model, policy="strict")
    workers.beat(database, ANOTHER, Condition(WorkerState.READY, model="N", policies=("strict",)), age=timedelta(0))
    found = claim(database)
    assert (found is None) == left
    assert left or (found is not None and found.id == job_id)  # and fails, with a reason


@pytest.mark.parametrize(
    ("state", "model", "waits"),
    [
        (None, "M", 8),
        (WorkerState.READY, "M", 0),
        (WorkerState.READY, "of another kind", 8),
        (WorkerState.STARTING, None, 20),
        (WorkerState.DRAINING, "M", 8),
    ],
)
def test_a_suspect_waits_until_another_worker_can_go_on_or_none_will(
    database: Database, tenant: UUID, state: WorkerState | None, model: str | None, waits: int
) -> None:
    suspect, other = add_job(database, tenant), add_job(database, tenant)
    claimed(database)
    dies(database, suspect)
    if state is not None:
        show(database, ANOTHER, state, model=model)
    silent_for(database, suspect, max(0, waits - 2))
    assert claimed(database).id == (other if waits else suspect)  # nobody else waits for the suspect
    if waits:
        assert claim(database) is None
        silent_for(database, suspect, waits + 1)
        assert claimed(database).id == suspect


def test_one_worker_is_kept_free_of_suspects(database: Database, tenant: UUID) -> None:
    first, second = add_job(database, tenant), add_job(database, tenant)
    claimed(database)
    claimed(database)
    dies(database, first, second)
    show(database, ANOTHER, WorkerState.READY)
    silent_for(database, second, 8)
    lifecycle.claim(database, worker=ANOTHER.id, model="M", lease=LEASE)  # one that does not see us takes the first
    assert claim(database) is None
    lifecycle.give_back(database, [(first, 2)])
    assert claim(database) is not None


def test_nobody_waits_for_longer_than_a_lease(database: Database, tenant: UUID) -> None:
    suspect = add_job(database, tenant)
    claimed(database)
    dies(database, suspect)
    show(database, ANOTHER, WorkerState.STARTING)
    silent_for(database, suspect, 4)
    assert claim(database) is None
    assert lifecycle.claim(database, worker="w", model="M", lease=timedelta(seconds=3)) is not None


def test_a_job_given_back_has_nothing_counted_and_stays_what_it_was(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    lifecycle.give_back(database, [claimed(database).fence])
    row = read(database, job_id)
    assert (row.state, row.deaths, row.lease_until) == ("queued", 0, None)
    again = claimed(database)
    assert (again.attempt, again.suspect) == (2, False)
    dies(database, job_id)
    lifecycle.begin_alone(database, *claimed(database).fence)
    dies(database, job_id)
    alone = claimed(database)
    lifecycle.begin_alone(database, *alone.fence)
    lifecycle.give_back(database, [alone.fence])
    row = read(database, job_id)
    assert (row.state, row.deaths, row.suspect, row.alone) == ("queued", 1, True, False)
    assert claim(database) is not None  # nobody died: nobody waits for a worker to come back


def test_a_process_that_ends_by_a_pass_says_whose_it_was(database: Database, tenant: UUID) -> None:
    jobs = [claimed_job(database, tenant) for _ in range(3)]
    elsewhere = add_job(database, tenant)
    lifecycle.claim(database, worker="another", model="M", lease=LEASE)
    show(database, replace(ANOTHER, id="w"), WorkerState.READY)
    assert lifecycle.surrender(database, "w", [job.fence for job in jobs[:2]], max_attempts=3) == 3
    with database.begin() as session:
        assert workers.list_workers(session) == []  # nobody is to count on it
    assert read(database, elsewhere).state == "running"
    rows = [read(database, job.id) for job in jobs]
    assert [(row.state, row.deaths, row.suspect) for row in rows] == [
        ("queued", 0, True),
        ("queued", 0, True),
        ("queued", 0, False),
    ]
    assert [row.beat_at is None for row in rows] == [False, False, True]


def test_a_pass_with_one_image_counts_whatever_else_the_process_carried(database: Database, tenant: UUID) -> None:
    culprit, other = claimed_job(database, tenant).id, claimed_job(database, tenant).id
    for deaths in (1, 2, 3):
        lifecycle.surrender(database, "w", [(culprit, read(database, culprit).attempt)], max_attempts=3)
        assert read(database, culprit).deaths == deaths
        silent_for(database, culprit, 20)
        if deaths < 3:
            assert {claimed(database).id for _ in range(2)} == {culprit, other}
    row = read(database, culprit)
    assert (row.state, row.error_code) == ("failed", "attempts_exhausted")
    assert read(database, other).deaths == 0


def claimed_job(database: Database, tenant: UUID) -> ClaimedJob:
    add_job(database, tenant)
    return claimed(database)


def test_a_job_past_its_deadline_expires_whether_it_waits_or_runs(database: Database, tenant: UUID) -> None:
    running = add_job(database, tenant)
    claimed(database)
    waiting = add_job(database, tenant)
    with database.begin() as session:
        session.execute(update(Job).values(deadline_at=func.now() - timedelta(seconds=1)))
    assert claim(database) is None
    report = lifecycle.sweep(database, max_attempts=3)
    assert report is not None
    assert report.expired == 2
    for job_id in (running, waiting):
        row = read(database, job_id)
        assert (row.state, row.error_code) == ("expired", "deadline_exceeded")


def test_terminal_states_never_change(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    attempt = claimed(database).attempt
    lifecycle.fail(database, job_id, attempt, JobError(ErrorCode.CORRUPT_IMAGE))
    finished_at = read(database, job_id).finished_at
    with database.begin() as session:
        lifecycle.cancel(session, tenant, job_id)
    with pytest.raises(LeaseLostError):
        lifecycle.succeed(database, job_id, attempt, RESULT)
    lifecycle.give_back(database, [(job_id, attempt)])
    row = read(database, job_id)
    assert (row.state, row.error_code, row.finished_at) == ("failed", "corrupt_image", finished_at)


def test_cancel_is_the_owners_alone(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    with database.begin() as session:
        assert lifecycle.cancel(session, add_tenant(database, "b"), job_id) is None
    assert read(database, job_id).state == JobState.QUEUED


def test_a_job_that_cannot_be_ended_keeps_no_other_from_being_swept(database: Database, tenant: UUID) -> None:
    cursed, overdue, dropped = (add_job(database, tenant) for _ in range(3))
    claimed(database)
    claimed(database)
    claimed(database)
    end_lease(database, dropped)
    with database.begin() as session:
        session.execute(text(_CURSE.format(cursed)))
        hour_ago = func.now() - timedelta(hours=1)
        session.execute(update(Job).where(Job.id.in_([cursed, overdue])).values(deadline_at=hour_ago))
    report = lifecycle.sweep(database, max_attempts=3)
    assert report is not None
    assert (report.expired, report.released) == (1, 1)
    assert [read(database, job_id).state for job_id in (cursed, overdue, dropped)] == ["running", "expired", "queued"]


#: What nobody foresaw: the database refuses that this one job ends.
_CURSE = """
CREATE FUNCTION curse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.id = '{}' AND NEW.finished_at IS NOT NULL THEN RAISE EXCEPTION 'cursed'; END IF; RETURN NEW; END $$;
CREATE TRIGGER curse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION curse();
"""


def test_one_process_sweeps_at_a_time(database: Database, tenant: UUID) -> None:
    with database.begin() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lifecycle._SWEEP_LOCK})
        assert lifecycle.sweep(database, max_attempts=3) is None
    assert lifecycle.sweep(database, max_attempts=3) is not None


def test_a_sweep_counts_no_further_than_it_needs(
    database: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "MOST_COUNTED", 2)
    for _ in range(3):
        add_job(database, tenant)
    assert lifecycle.sweep(database, max_attempts=3) == lifecycle.SweepReport(queued=2)


def test_a_deadlock_is_an_outage_that_passes_and_not_an_error_of_the_program(database: Database, tenant: UUID) -> None:
    jobs = [add_job(database, tenant) for _ in range(2)]
    both_hold_one = Barrier(2)

    def lock(first: UUID, second: UUID) -> bool:
        try:
            with database.begin() as session:
                session.execute(select(Job.id).where(Job.id == first).with_for_update())
                both_hold_one.wait(10)
                session.execute(select(Job.id).where(Job.id == second).with_for_update())
        except DatabaseUnavailableError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lock, jobs, reversed(jobs))) == [False, True]


MOVERS: dict[str, Callable[[Database, list[ClaimedJob]], object]] = {
    "heartbeat": lambda database, jobs: lifecycle.heartbeat(
        database, {job.fence: Stage.DECODING for job in jobs}, lease=LEASE
    ),
    "give back": lambda database, jobs: lifecycle.give_back(database, [job.fence for job in jobs]),
    "surrender": lambda database, _: lifecycle.surrender(database, "w", [], max_attempts=3),
}


@pytest.mark.parametrize("move", MOVERS.values(), ids=MOVERS)
def test_jobs_are_locked_in_one_order_so_that_no_two_wait_for_each_other(
    database: Database, tenant: UUID, move: Callable[[Database, list[ClaimedJob]], object]
) -> None:
    for _ in range(6):
        add_job(database, tenant)
    jobs = sorted((claimed(database) for _ in range(6)), key=lambda job: job.id, reverse=True)
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    with ThreadPoolExecutor(1) as pool, database.begin() as session:
        session.execute(select(Job.id).where(Job.id == jobs[-1].id).with_for_update())
        moved = pool.submit(move, database, jobs)
        while not moved.done() and not session.scalar(waiting):
            pass
        others = select(Job.id).where(Job.id != jobs[-1].id)
        assert (
            len(session.execute(others.with_for_update(nowait=True)).all()) == 5
        )  # it waits for the first, and holds none
        session.commit()
        moved.result(10)
