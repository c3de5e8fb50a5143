"""The life of a job, on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from sqlalchemy import event, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.tables import JobRow, ResultRow, Tenant, WebhookDelivery, WorkerRow
from shared.domain import (
    EVENT_TYPES,
    PROBE_PASSES,
    AnalyzedImage,
    AppliedPolicy,
    Artifact,
    AttemptId,
    ClaimedJob,
    ConfidenceInterval,
    FeatureMean,
    JobOptions,
    JobResult,
    JobState,
    ModelIdentity,
    NewJob,
    Region,
    Role,
    Stability,
    Stage,
    WorkerState,
)
from shared.errors import DatabaseUnavailableError, ErrorCode, JobError, KeyTakenError, LeaseLostError
from shared.jobs import claiming, lifecycle, sweeping
from shared.jobs.options import from_columns
from shared.jobs.results import from_row
from shared.presenter import timestamp
from shared.webhooks.endpoints import create_endpoint
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus
from tests.support.databases import add_tenant, fresh_database

LEASE = timedelta(seconds=30)
DEADLINE = timedelta(hours=1)
VAULT = Vault("a secret key for tests, 32 chars at least")

RESULT = JobResult(
    prediction="FAKE",
    confidence=0.9,
    probability_fake=0.9,
    raw_probability_fake=0.99,
    threshold=0.8,
    policy=AppliedPolicy("strict", 0.8, None, 2.0, -0.1, 0.0, ConfidenceInterval(0.0, 0.012, 0.95), 300),
    stability=Stability(0.25, 0.7, 0.95, 5),
    processing_time=1.5,
    device_seconds=0.25,
    image=AnalyzedImage(640, 480, Region(80, 0, 480, 480), "image/jpeg", "MPO", 92),
    model=ModelIdentity("M", "ab" * 32, demonstration=True, device="cuda", precision="bf16"),
    timings={"decoding": 0.1},
    caveats=("Transparency was dropped.",),
    feature_mean=FeatureMean(b"\0" * 16, 2, 2),
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
    replay_of: UUID | None = None,
    metadata: dict[str, Any] | None = None,
) -> UUID:
    job_id = uuid4()
    source = (f"{job_id}/source", "00" * 32, 5, "image/png")
    new = NewJob(
        job_id,
        tenant,
        *source,
        JobOptions(model=model, policy=policy, stability=stability, client_metadata=metadata or {}),
        priority=priority,
        replay_of=replay_of,
    )
    with database.begin() as session:
        lifecycle.create(session, new, deadline=DEADLINE)
    return job_id


def claim(
    database: Database, model: str = "M", *, worker: str = "w", policies: Sequence[str] = ()
) -> ClaimedJob | None:
    return claiming.claim(database, worker=worker, model=model, lease=LEASE, policies=policies)


def claimed(database: Database, *, worker: str = "w", policies: Sequence[str] = ()) -> ClaimedJob:
    job = claim(database, worker=worker, policies=policies)
    assert job is not None
    return job


def read(database: Database, job_id: UUID) -> JobRow:
    with database.begin() as session:
        return session.scalars(select(JobRow).where(JobRow.id == job_id)).one()


def columns(database: Database, job_id: UUID) -> dict[str, object]:
    """The whole row of a job."""
    row = read(database, job_id)
    return {column.key: getattr(row, column.key) for column in JobRow.__mapper__.column_attrs}


def lease_of(row: JobRow) -> timedelta:
    """For how long it was given, at the last sign of life of its worker."""
    assert row.lease_until is not None
    assert row.beat_at is not None
    return row.lease_until - row.beat_at


def end_lease(database: Database, job_id: UUID) -> None:
    with database.begin() as session:
        over, silent_since = func.now() - timedelta(seconds=1), func.now() - timedelta(hours=1)
        session.execute(update(JobRow).where(JobRow.id == job_id).values(lease_until=over, beat_at=silent_since))


#: The lock under which a claim of a suspect checks whether another one of the tenant runs.
OTHERS_CLAIMS_WAIT = text("SELECT pg_advisory_xact_lock(1147761257, hashtext(CAST(:tenant AS text)))")


def once_after(database: Database, part: str, act: Callable[[], object]) -> None:
    """Have something happen after the first statement that contains `part`, before its transaction goes on."""
    left = [act]

    @event.listens_for(database.engine, "after_cursor_execute")
    def happen(*sent: Any) -> None:
        if left and part in sent[2]:
            left.pop()()


def until_it_waits(session: Session, other: Future[Any]) -> None:
    """Return when what is done elsewhere waits for a lock of this session's, or is done."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    while not other.done() and not session.scalar(waiting):
        pass


def lock(session: Session, job_id: UUID) -> None:
    """Hold a job until the session's transaction ends, as whoever writes it does."""
    session.execute(select(JobRow.id).where(JobRow.id == job_id).with_for_update())


def test_a_job_is_written_as_it_was_accepted(database: Database, tenant: UUID) -> None:
    new = NewJob(
        uuid4(),
        tenant,
        "key",
        "ab" * 32,
        5,
        "image/webp",
        JobOptions("M", "strict", stability=True, pictures=("heatmap",), client_metadata={"their": "words"}),
        priority=3,
        idempotency_key="submission",
        replay_of=uuid4(),
    )
    with database.begin() as session:
        lifecycle.create(session, new, deadline=DEADLINE)
    row = columns(database, new.id)
    accepted = {**vars(new), **vars(new.options), "pictures": ["heatmap"]}
    del accepted["options"]
    assert {name: row[name] for name in accepted} == accepted
    assert row["deadline_at"] == read(database, new.id).created_at + DEADLINE


def test_options_reach_the_worker_and_a_replay_as_they_were_accepted(database: Database, tenant: UUID) -> None:
    options = JobOptions("M", "strict", stability=True, pictures=("heatmap",), client_metadata={"their": ["words"]})
    new = NewJob(uuid4(), tenant, "key", "ab" * 32, 5, "image/webp", options)
    with database.begin() as session:
        lifecycle.create(session, new, deadline=DEADLINE)
    assert from_columns(read(database, new.id)) == options
    assert claimed(database, policies=["strict"]).options == options


def test_only_a_key_that_its_tenant_has_used_is_told_as_taken(database: Database, tenant: UUID) -> None:
    first = NewJob(uuid4(), tenant, "key", "00" * 32, 5, "image/png", idempotency_key="submission")

    def create(new: NewJob) -> None:
        with database.begin() as session:
            lifecycle.create(session, new, deadline=DEADLINE)

    create(first)
    with pytest.raises(KeyTakenError):
        create(replace(first, id=uuid4()))
    with pytest.raises(IntegrityError):
        create(replace(first, idempotency_key="another"))  # with the id of the first
    create(replace(first, id=uuid4(), tenant_id=add_tenant(database, "b")))


def test_a_claim_owns_the_job_before_it_returns(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    job = claimed(database)
    row = read(database, job_id)
    assert (job.id, job.attempt, job.suspect) == (job_id, 1, False)
    assert (row.state, row.stage, row.attempt, row.worker) == ("running", "fetching", 1, "w")
    assert lease_of(row) == LEASE
    assert row.started_at == row.beat_at
    assert claim(database) is None


def test_a_job_began_when_it_was_first_claimed(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    lifecycle.release(database, [claimed(database).attempt_id])
    began = read(database, job_id).started_at
    claimed(database)
    row = read(database, job_id)
    assert row.started_at == began != row.beat_at


def test_priority_goes_before_fairness_and_fairness_before_age(database: Database, tenant: UUID) -> None:
    first = add_job(database, tenant)
    second = add_job(database, tenant)
    other = add_job(database, add_tenant(database, "b"))
    urgent = add_job(database, tenant, priority=5)
    taken = [claimed(database).id for _ in range(4)]
    # The urgent one; then the tenant that has nothing running; then by age.
    assert taken == [urgent, other, first, second]


def test_a_tenants_turn_is_that_of_its_most_urgent_job(database: Database, tenant: UUID) -> None:
    old, urgent = add_job(database, tenant), add_job(database, tenant, priority=5)
    other = add_job(database, add_tenant(database, "b"), priority=3)
    assert [claimed(database).id for _ in range(3)] == [urgent, other, old]


def test_who_waits_longest_goes_first_within_a_tenant_and_between_those_with_as_much_running(
    database: Database, tenant: UUID
) -> None:
    own = [add_job(database, tenant) for _ in range(5)]
    assert [claimed(database).id for _ in own] == own
    others = [add_job(database, add_tenant(database, f"tenant {number}")) for number in range(5)]
    assert [claimed(database).id for _ in others] == others


def test_fairness_counts_a_job_that_asks_for_stability_as_the_passes_it_costs(database: Database, tenant: UUID) -> None:
    add_job(database, tenant, stability=True)
    assert claimed(database).options.stability
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
    policies = {claimed(database, policies=["default", "asked"]).options.policy for _ in range(3)}
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
        [first], _ = claiming.take(session, worker="w", model="M", lease=LEASE)
        assert {first.id, claimed(database).id} == jobs


def test_a_claim_looks_again_where_others_held_all_that_it_saw(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    with database.begin() as session:
        lock(session, job_id)
        once_after(database, "SET state = 'running'", session.rollback)
        assert claimed(database).id == job_id


def test_success_is_one_transaction_with_its_webhook(database: Database, tenant: UUID) -> None:
    with database.begin() as session:
        create_endpoint(session, VAULT, tenant, "https://example.org/all", EVENT_TYPES)
        create_endpoint(session, VAULT, tenant, "https://example.org/failures", ["job.failed"])
        disabled, _ = create_endpoint(session, VAULT, tenant, "https://example.org/gone", EVENT_TYPES)
        disabled.disabled_at = session.scalars(select(func.now())).one()
    stranger = add_tenant(database, "b")
    with database.begin() as session:
        create_endpoint(session, VAULT, stranger, "https://example.org/not-theirs", EVENT_TYPES)
    job_id = add_job(database, tenant, metadata={"naïve": "✓"})
    lifecycle.succeed(database, claimed(database).attempt_id, RESULT)
    with database.begin() as session:
        row = session.get_one(JobRow, job_id)
        result = session.get_one(ResultRow, job_id)
        delivery = session.scalars(select(WebhookDelivery)).one()
    assert (row.state, row.stage, row.lease_until) == ("succeeded", None, None)
    assert row.finished_at is not None
    assert (result.prediction, result.model_name, result.demonstration) == ("FAKE", "M", True)
    event = json.loads(delivery.body)
    assert (event["type"], event["timestamp"]) == ("job.succeeded", timestamp(row.finished_at))
    assert event["data"]["metadata"] == {"naïve": "✓"}
    assert json.dumps(event, ensure_ascii=False, separators=(",", ":")) == delivery.body  # no byte more than need be
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


@pytest.mark.parametrize("result", [RESULT, replace(RESULT, policy=None, stability=None)], ids=["policy", "no policy"])
def test_a_result_is_read_as_it_was_written(database: Database, tenant: UUID, result: JobResult) -> None:
    job = claimed_job(database, tenant)
    lifecycle.succeed(database, job.attempt_id, result)
    with database.begin() as session:
        row = session.get_one(ResultRow, job.id)
        assert from_row(row) == result
        assert (row.policy is None) == (result.policy is None)


def test_jobs_of_a_tenant_end_at_the_same_moment_though_they_tell_the_same_endpoint(
    database: Database, tenant: UUID
) -> None:
    with database.begin() as session:
        create_endpoint(session, VAULT, tenant, "https://example.org/all", EVENT_TYPES)
    first, second = claimed_job(database, tenant), claimed_job(database, tenant)
    with database.begin() as session:
        lifecycle.cancel(session, tenant, first.id)  # not committed yet
        assert lifecycle.succeed(database, second.attempt_id, RESULT)  # and waits for no lock


def test_an_attempt_that_lost_its_lease_writes_nothing(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    stale = claimed(database)
    end_lease(database, job_id)
    sweeping.sweep(database, max_attempts=3)
    current = claimed(database)
    with pytest.raises(LeaseLostError):
        lifecycle.succeed(database, stale.attempt_id, RESULT)
    with pytest.raises(LeaseLostError):
        lifecycle.fail(database, stale.attempt_id, JobError(ErrorCode.INTERNAL))
    assert lifecycle.heartbeat(database, {stale.attempt_id: Stage.STORING}, lease=LEASE) == set()
    before = columns(database, job_id)
    lifecycle.release(database, [stale.attempt_id])
    lifecycle.release_after_device_failure(database, "another", [stale.attempt_id], max_attempts=1)
    assert columns(database, job_id) == before  # it is still the current attempt's
    with database.begin() as session:
        assert session.get(ResultRow, job_id) is None
    lifecycle.succeed(database, current.attempt_id, RESULT)
    assert read(database, job_id).state == "succeeded"


def test_a_process_that_ends_by_a_pass_says_nothing_of_an_attempt_that_it_has_lost(
    database: Database, tenant: UUID
) -> None:
    """It has claimed the job again meanwhile, and the pass is that of the attempt before."""
    job_id = add_job(database, tenant)
    stale = claimed(database)
    end_lease(database, job_id)
    sweeping.sweep(database, max_attempts=3)
    claimed(database)
    lifecycle.release_after_device_failure(database, "w", [stale.attempt_id], max_attempts=1)
    row = read(database, job_id)
    assert (row.state, row.deaths) == ("queued", 0)


def test_a_late_write_waits_for_the_end_that_is_being_written_and_is_refused(database: Database, tenant: UUID) -> None:
    job = claimed_job(database, tenant)
    with ThreadPoolExecutor(1) as pool, database.begin() as session:
        lifecycle.cancel(session, tenant, job.id)
        late = pool.submit(lifecycle.succeed, database, job.attempt_id, RESULT)
        until_it_waits(session, late)
        session.commit()
        with pytest.raises(LeaseLostError):
            late.result(10)
    assert read(database, job.id).state == "canceled"
    with database.begin() as session:
        assert session.get(ResultRow, job.id) is None


def test_a_heartbeat_extends_what_is_owned_and_tells_what_is_not(database: Database, tenant: UUID) -> None:
    kept, lost = add_job(database, tenant), add_job(database, tenant)
    attempt_ids = {job.id: job.attempt_id for job in (claimed(database), claimed(database))}
    with database.begin() as session:
        lifecycle.cancel(session, tenant, lost)
    end_lease(database, kept)
    stages = {attempt_ids[kept]: Stage.DIFFUSING, attempt_ids[lost]: Stage.DIFFUSING}
    assert lifecycle.heartbeat(database, stages, lease=LEASE) == {attempt_ids[kept]}
    row = read(database, kept)
    assert row.stage == "diffusing"
    assert lease_of(row) == LEASE
    assert row.started_at is not None
    assert row.beat_at is not None
    assert row.beat_at > row.started_at
    assert sweeping.sweep(database, max_attempts=3) == sweeping.SweepReport()


def dies(database: Database, *jobs: UUID) -> sweeping.SweepReport:
    """Their worker does."""
    for job_id in jobs:
        end_lease(database, job_id)
    report = sweeping.sweep(database, max_attempts=3)
    assert report is not None
    return report


def test_a_death_that_several_jobs_shared_counts_for_none_and_makes_each_a_suspect(
    database: Database, tenant: UUID
) -> None:
    jobs = [add_job(database, tenant) for _ in range(3)]
    assert {claimed(database).id for _ in jobs} == set(jobs)
    assert dies(database, *jobs).released == 3
    for job_id in jobs:
        row = read(database, job_id)
        assert (row.state, row.attempt, row.deaths, row.suspect, row.isolated) == ("queued", 1, 0, True, False)
    for attempt in (2, 3, 4):
        suspect = claimed(database)
        assert suspect.suspect
        assert dies(database, suspect.id).released == 1  # before it was alone
        row = read(database, suspect.id)
        assert (row.state, row.attempt, row.deaths) == ("queued", attempt, 0)


def test_replays_share_a_worker_and_take_turns_with_uploads(database: Database, tenant: UUID) -> None:
    other = add_tenant(database, "b")
    for _ in range(4):
        add_job(database, tenant, replay_of=uuid4())
    for _ in range(4):
        add_job(database, other)
    together = several(database, 8)
    assert [job.tenant_id for job in together] == [tenant, other] * 4
    assert not any(job.suspect for job in together)
    dies(database, together[0].id)  # only now
    show(database, ANOTHER, WorkerState.READY)
    assert claimed(database).suspect


def test_of_a_tenant_one_suspect_is_under_way_at_a_time_and_others_go_on(database: Database, tenant: UUID) -> None:
    suspects = [add_job(database, tenant) for _ in range(4)]
    other = add_tenant(database, "b")
    suspects_of_other = [add_job(database, other) for _ in range(2)]
    for _ in range(6):
        claimed(database)
    dies(database, *suspects, *suspects_of_other)
    fresh = [add_job(database, tenant), add_job(database, other)]
    for number in range(10):
        show(database, replace(ANOTHER, id=f"w{number}"), WorkerState.READY)
    taken = [claimed(database, worker=f"w{number}") for number in range(4)]
    assert [job.suspect for job in taken] == [True, True, False, False]
    assert {job.tenant_id for job in taken[:2]} == {tenant, other}
    assert {job.id for job in taken[2:]} == set(fresh)
    assert claim(database, worker="w5") is None
    lifecycle.fail(database, taken[0].attempt_id, JobError(ErrorCode.CORRUPT_IMAGE))
    again = claimed(database, worker="w5")
    assert (again.suspect, again.tenant_id) == (True, taken[0].tenant_id)


def test_two_that_look_at_the_same_moment_do_not_take_two_suspects_of_a_tenant(
    database: Database, tenant: UUID
) -> None:
    suspects = [add_job(database, tenant) for _ in range(6)]
    for _ in suspects:
        claimed(database)
    dies(database, *suspects)
    for number in range(6):
        show(database, replace(ANOTHER, id=f"w{number}"), WorkerState.READY)
    together = Barrier(6)

    def claim_together(number: int) -> ClaimedJob | None:
        together.wait()
        return claim(database, worker=f"w{number}")

    with ThreadPoolExecutor(6) as pool:
        taken = [job for job in pool.map(claim_together, range(6)) if job]
    assert len(taken) == 1
    assert taken[0].suspect


def test_a_claim_leaves_its_suspect_where_another_of_the_tenant_was_taken_a_moment_before(
    database: Database, tenant: UUID
) -> None:
    strict, other = add_job(database, tenant, policy="strict"), add_job(database, tenant)
    for _ in range(2):
        claimed(database, policies=["strict"])
    dies(database, strict, other)
    fresh = add_job(database, tenant)
    for name in ("w0", "w1"):
        show(database, replace(ANOTHER, id=name), WorkerState.READY)
    with ThreadPoolExecutor(1) as pool, database.begin() as session:
        [first], _ = claiming.take(session, worker="w0", model="M", lease=LEASE, policies=["strict"])
        assert first.id == strict
        session.execute(OTHERS_CLAIMS_WAIT, {"tenant": tenant})
        second = pool.submit(claimed, database, worker="w1")  # has no policy, so it sees the other suspect alone
        until_it_waits(session, second)
        session.commit()
        assert second.result(10).id == fresh
    row = read(database, other)
    assert (row.state, row.attempt) == ("queued", 1)


def test_a_suspect_counts_as_all_the_slots_that_it_empties(database: Database, tenant: UUID) -> None:
    suspect = add_job(database, tenant)
    claimed(database)
    dies(database, suspect)
    status = WorkerStatus(WorkerState.READY, slots=4, model="M")
    registry.beat(database, replace(ANOTHER, id="alone"), status, age=timedelta(0))
    show(database, ANOTHER, WorkerState.READY)
    assert claimed(database, worker="alone").id == suspect
    mine = [add_job(database, tenant) for _ in range(3)]
    other = add_tenant(database, "b")
    others = [add_job(database, other) for _ in range(4)]
    assert [claimed(database).id for _ in range(7)] == [
        *others,
        *mine,
    ]  # older, but four slots are its tenant's already


def test_several_are_taken_at_once_in_the_order_of_single_claims(database: Database, tenant: UUID) -> None:
    for number in range(3):
        other = add_tenant(database, f"tenant {number}")
        for priority in (0, 1, 0):
            add_job(database, other, priority=priority)
    for _ in range(4):
        add_job(database, tenant, stability=True)
        add_job(database, tenant)
    with database.begin() as session:
        session.execute(update(JobRow).values(created_at=func.now()))  # of one age, so that each claim must weigh
    copy = fresh_copy(database)
    one_by_one = [claimed(copy).id for _ in range(17)]
    at_once = several(database, 5) + several(database, 7) + several(database, 9)
    copy.close()
    assert [job.id for job in at_once] == one_by_one
    assert several(database, 3) == []


def fresh_copy(database: Database) -> Database:
    """A database of its own with the same rows."""
    url = database.engine.url
    database.engine.dispose()  # a template must have no visitors
    return Database(fresh_database(url.render_as_string(hide_password=False), str(url.database)))


def several(database: Database, most: int) -> list[ClaimedJob]:
    return claiming.claim_several(database, worker="w", model="M", lease=LEASE, most=most)


def test_a_suspect_is_taken_alone_whatever_waits_beside_it(database: Database, tenant: UUID) -> None:
    suspect = add_job(database, tenant)
    claimed(database)
    dies(database, suspect)
    fresh = {add_job(database, tenant) for _ in range(3)}
    show(database, ANOTHER, WorkerState.READY)
    assert [job.id for job in several(database, 8)] == [suspect]
    assert {job.id for job in several(database, 8)} == fresh
    lifecycle.release(database, [AttemptId(suspect, 2)])
    urgent = add_job(database, tenant, priority=1)
    assert [job.id for job in several(database, 8)] == [urgent]  # what comes behind a suspect waits for it
    assert [job.id for job in several(database, 8)] == [suspect]


def test_three_deaths_alone_end_a_job(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    claimed(database)
    dies(database, job_id)
    for deaths in (1, 2):
        lifecycle.begin_isolated(database, claimed(database).attempt_id)
        report = dies(database, job_id)
        assert (report.released, report.queued) == (1, 1)
        row = read(database, job_id)
        assert (row.deaths, row.suspect, row.isolated) == (deaths, True, False)
    claimed(database)
    dies(database, job_id)
    assert read(database, job_id).deaths == 2  # it had been claimed, and still shared its process
    lifecycle.begin_isolated(database, claimed(database).attempt_id)
    assert dies(database, job_id).exhausted == 1
    row = read(database, job_id)
    assert (row.state, row.error_code, row.error_retryable) == ("failed", "attempts_exhausted", False)


def test_an_attempt_that_lost_its_job_does_not_begin_isolated(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    stale = claimed(database)
    dies(database, job_id)
    claimed(database)
    with pytest.raises(LeaseLostError):
        lifecycle.begin_isolated(database, stale.attempt_id)
    assert not read(database, job_id).isolated


ANOTHER = WorkerIdentity("another", Role.ANALYSIS, "host", 1, None, None, "1.0")


def show(database: Database, worker: WorkerIdentity, state: WorkerState, *, model: str | None = "M") -> None:
    """Write that another worker lives."""
    registry.beat(database, worker, WorkerStatus(state, model=model), age=timedelta(0))


#: Workers that no job is left to: each is written as it says, and then not heard of for so many seconds.
OF_NO_HELP: dict[str, tuple[WorkerIdentity, WorkerState, float]] = {
    "the very worker that asks": (replace(ANOTHER, id="w"), WorkerState.READY, 0),
    "one that was not heard of": (ANOTHER, WorkerState.READY, 4),
    "one that sends webhooks": (replace(ANOTHER, role=Role.WEBHOOKS), WorkerState.READY, 0),
    "one that stops": (ANOTHER, WorkerState.DRAINING, 0),
}


def show_one_of_no_help(database: Database, who: str, policies: Sequence[str] = ()) -> None:
    worker, state, seconds = OF_NO_HELP[who]
    registry.beat(database, worker, WorkerStatus(state, model="M", policies=policies), age=timedelta(0))
    with database.begin() as session:
        session.execute(update(WorkerRow).values(heartbeat_at=func.now() - timedelta(seconds=seconds)))


def silent_for(database: Database, job_id: UUID, seconds: float) -> None:
    with database.begin() as session:
        heard_of = func.now() - timedelta(seconds=seconds)
        session.execute(update(JobRow).where(JobRow.id == job_id).values(beat_at=heard_of))


@pytest.mark.parametrize("whose", ["the job's", "the tenant's"])
def test_a_job_is_left_to_workers_that_have_its_policy(database: Database, tenant: UUID, whose: str) -> None:
    job_id, other = add_job(database, tenant), add_job(database, add_tenant(database, "b"))
    named = (
        update(JobRow).where(JobRow.id == job_id) if whose == "the job's" else update(Tenant).where(Tenant.id == tenant)
    )
    with database.begin() as session:
        session.execute(named.values(policy="strict"))
    assert claimed(database).id == other
    assert claim(database, policies=["another"]) is None  # whoever else lives
    assert not claiming.anything_waits(database, worker="w", model="M", lease=LEASE)
    mine = claimed(database, policies=["another", "strict"])
    assert (mine.id, mine.options.policy) == (job_id, "strict")


FAILED_HERE = JobError(ErrorCode.OUT_OF_MEMORY)


def fails_on(database: Database, job: ClaimedJob, worker: str, policy: str | None = None) -> str:
    """Have the device of `worker` fail a job; return what state that leaves it in."""
    with database.begin() as session:
        session.execute(update(JobRow).where(JobRow.id == job.id).values(worker=worker))
    lifecycle.try_elsewhere(database, job.attempt_id, FAILED_HERE, model="M", policy=policy)
    return read(database, job.id).state


def test_what_a_device_cannot_judge_is_left_to_another_and_fails_there(database: Database, tenant: UUID) -> None:
    show(database, ANOTHER, WorkerState.READY)
    show(database, replace(ANOTHER, id="w"), WorkerState.READY)
    first, second = add_job(database, tenant), add_job(database, tenant)
    assert fails_on(database, claimed(database), "w") == "queued"
    assert (read(database, first).deaths, read(database, first).suspect, read(database, first).stage) == (
        0,
        False,
        None,
    )
    assert claimed(database).id == second
    assert claim(database) is None  # the first is not for this worker
    assert not claiming.anything_waits(database, worker="w", model="M", lease=LEASE)
    again = claimed(database, worker=ANOTHER.id)
    assert (again.id, again.attempt) == (first, 2)
    assert fails_on(database, again, ANOTHER.id) == "failed"
    assert read(database, first).error_code == "out_of_memory"


@pytest.mark.parametrize("who", OF_NO_HELP)
def test_what_a_device_cannot_judge_fails_where_no_other_is_there_to_try(
    database: Database, tenant: UUID, who: str
) -> None:
    show_one_of_no_help(database, who)
    assert fails_on(database, claimed_job(database, tenant), "w") == "failed"


def test_a_job_that_another_was_to_try_comes_back_when_the_other_is_gone(database: Database, tenant: UUID) -> None:
    show(database, ANOTHER, WorkerState.READY)
    job = claimed_job(database, tenant)
    assert fails_on(database, job, "w") == "queued"
    show(database, ANOTHER, WorkerState.DRAINING)
    again = claimed(database)
    assert again.id == job.id
    assert fails_on(database, again, "w") == "failed"


@pytest.mark.parametrize("whose", ["the job's", "the tenant's"])
def test_only_a_worker_that_has_the_policy_is_another_to_try(database: Database, tenant: UUID, whose: str) -> None:
    show(database, ANOTHER, WorkerState.READY)
    job_id = add_job(database, tenant)
    named = (
        update(JobRow).where(JobRow.id == job_id) if whose == "the job's" else update(Tenant).where(Tenant.id == tenant)
    )
    with database.begin() as session:
        session.execute(named.values(policy="strict"))
    job = claimed(database, policies=["strict"])
    status = WorkerStatus(WorkerState.READY, model="M", policies=("strict",))
    registry.beat(database, ANOTHER, status, age=timedelta(0))
    assert fails_on(database, job, "w", "strict") == "queued"
    assert claim(database, policies=["strict"]) is None
    show(database, ANOTHER, WorkerState.READY)  # without it
    again = claimed(database, policies=["strict"])
    assert fails_on(database, again, "w", "strict") == "failed"


def waited_for(database: Database, minutes: int) -> None:
    with database.begin() as session:
        session.execute(update(JobRow).values(created_at=func.now() - timedelta(minutes=minutes)))


@pytest.mark.parametrize("whose", ["the job's", "the tenant's"])
def test_a_job_fails_whose_policy_nobody_had_for_minutes_while_others_were_ready(
    database: Database, tenant: UUID, whose: str
) -> None:
    job_id, other = add_job(database, tenant), add_job(database, add_tenant(database, "b"))
    named = (
        update(JobRow).where(JobRow.id == job_id) if whose == "the job's" else update(Tenant).where(Tenant.id == tenant)
    )
    with database.begin() as session:
        session.execute(named.values(policy="strict"))
    assert registry.unserved_policies(database) == set()  # nobody is there who could say
    show(database, ANOTHER, WorkerState.READY)
    assert registry.unserved_policies(database) == {(None, "strict")}
    waited_for(database, 59)
    assert sweeping.fail_unserved(database, None, "strict", waited=timedelta(hours=1)) == 0  # not yet
    waited_for(database, 61)
    assert sweeping.fail_unserved(database, None, "lax", waited=timedelta(hours=1)) == 0
    assert sweeping.fail_unserved(database, None, "strict", waited=timedelta(hours=1)) == 1
    row = read(database, job_id)
    assert (row.state, row.error_code, row.error_retryable) == ("failed", "model_unavailable", True)
    assert (
        row.error_message == "No worker has had the policy 'strict' for 60 minutes. Ask the operator, or name another."
    )
    assert read(database, other).state == "queued"


def test_a_job_that_another_transaction_holds_keeps_no_other_from_failing_for_its_policy(
    database: Database, tenant: UUID
) -> None:
    held, other = (add_job(database, tenant, policy="strict") for _ in range(2))
    waited_for(database, 6)
    with database.begin() as session:
        lock(session, held)
        assert sweeping.fail_unserved(database, None, "strict", waited=timedelta(minutes=5)) == 1
    assert [read(database, job_id).state for job_id in (held, other)] == ["queued", "failed"]


def test_a_policy_is_served_by_who_may_take_the_job_and_is_ready(database: Database, tenant: UUID) -> None:
    add_job(database, tenant, policy="strict", model="N")
    add_job(database, tenant, policy="strict")
    status = WorkerStatus(WorkerState.READY, model="M", policies=("strict",))
    registry.beat(database, ANOTHER, status, age=timedelta(0))
    assert registry.unserved_policies(database) == set()  # for N nobody is there who could say
    show(database, replace(ANOTHER, id="of N"), WorkerState.READY, model="N")
    assert registry.unserved_policies(database) == {("N", "strict")}
    with database.begin() as session:
        session.execute(text("UPDATE workers SET state = 'starting' WHERE id = 'another'"))
    assert registry.unserved_policies(database) == {("N", "strict"), (None, "strict")}


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


@pytest.mark.parametrize("who", OF_NO_HELP)
def test_a_suspect_waits_as_if_none_lived_beside_one_that_is_of_no_help(
    database: Database, tenant: UUID, who: str
) -> None:
    suspect = claimed_job(database, tenant).id
    dies(database, suspect)
    show_one_of_no_help(database, who)
    silent_for(database, suspect, 6)
    assert claim(database) is None
    silent_for(database, suspect, 9)
    assert claimed(database).id == suspect


@pytest.mark.parametrize("who", [*OF_NO_HELP, "one that starts"])
def test_a_policy_is_not_served_by_one_that_is_of_no_help(database: Database, tenant: UUID, who: str) -> None:
    add_job(database, tenant, policy="strict")
    if who == "one that starts":
        starting = WorkerStatus(WorkerState.STARTING, model="M", policies=["strict"])
        registry.beat(database, ANOTHER, starting, age=timedelta(0))
    else:
        show_one_of_no_help(database, who, policies=["strict"])
    if who == "one that was not heard of":
        with database.begin() as session:
            session.execute(update(WorkerRow).values(heartbeat_at=func.now() - timedelta(seconds=11)))
    show(database, replace(ANOTHER, id="without"), WorkerState.READY)
    assert claim(database) is None  # by one without the policy, whoever else lives
    served = who == "the very worker that asks"  # which has the policy, and is ready
    assert registry.unserved_policies(database) == (set() if served else {(None, "strict")})


def expired(database: Database, job_id: UUID) -> None:
    with database.begin() as session:
        over = func.now() - timedelta(seconds=1)
        session.execute(update(JobRow).where(JobRow.id == job_id).values(deadline_at=over))


def of_another_model(database: Database, job_id: UUID) -> None:
    with database.begin() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(model="another"))


def left_to_another(database: Database, job_id: UUID) -> None:
    with database.begin() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(policy="strict"))
    registry.beat(database, ANOTHER, WorkerStatus(WorkerState.READY, model="M", policies=["strict"]), age=timedelta(0))


def a_suspect_that_waits(database: Database, job_id: UUID) -> None:
    with database.begin() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(suspect=True, beat_at=func.now()))


@pytest.mark.parametrize("made", [expired, of_another_model, left_to_another, a_suspect_that_waits])
def test_a_job_that_cannot_be_taken_gives_its_tenant_no_turn_and_hides_none(
    database: Database, tenant: UUID, made: Callable[[Database, UUID], None]
) -> None:
    made(database, add_job(database, tenant, priority=9))
    later = add_job(database, tenant)
    urgent = add_job(database, add_tenant(database, "b"), priority=5)
    assert [claimed(database).id for _ in range(2)] == [urgent, later]
    assert claim(database) is None


def test_fairness_counts_what_runs_and_neither_what_waits_nor_what_has_ended(database: Database, tenant: UUID) -> None:
    for _ in range(2):
        job = claimed_job(database, tenant)
        lifecycle.fail(database, job.attempt_id, JobError(ErrorCode.CORRUPT_IMAGE))
    older = [add_job(database, tenant) for _ in range(2)]
    add_job(database, add_tenant(database, "b"))
    assert claimed(database).id == older[0]


def test_a_worker_whose_suspect_has_ended_is_free_of_suspects_again(database: Database, tenant: UUID) -> None:
    first, second = claimed_job(database, tenant).id, claimed_job(database, tenant).id
    dies(database, first, second)
    show(database, ANOTHER, WorkerState.READY)
    taken = claiming.claim(database, worker=ANOTHER.id, model="M", lease=timedelta(seconds=1))
    assert taken is not None
    lifecycle.fail(database, taken.attempt_id, JobError(ErrorCode.CORRUPT_IMAGE))
    silent_for(database, second, 0)
    assert claimed(database).id == second


def test_one_worker_is_kept_free_of_suspects(database: Database, tenant: UUID) -> None:
    first, second = add_job(database, tenant), add_job(database, tenant)
    claimed(database)
    claimed(database)
    dies(database, first, second)
    show(database, ANOTHER, WorkerState.READY)
    silent_for(database, second, 8)
    claiming.claim(database, worker=ANOTHER.id, model="M", lease=LEASE)  # one that does not see us takes the first
    assert claim(database) is None
    lifecycle.release(database, [AttemptId(first, 2)])
    assert claim(database) is not None


def test_nobody_waits_for_longer_than_a_lease(database: Database, tenant: UUID) -> None:
    suspect = add_job(database, tenant)
    claimed(database)
    dies(database, suspect)
    show(database, ANOTHER, WorkerState.STARTING)
    silent_for(database, suspect, 4)
    assert claim(database) is None
    assert claiming.claim(database, worker="w", model="M", lease=timedelta(seconds=3)) is not None


def test_a_job_given_back_has_nothing_counted_and_stays_what_it_was(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    lifecycle.release(database, [claimed(database).attempt_id])
    row = read(database, job_id)
    assert (row.state, row.deaths, row.lease_until) == ("queued", 0, None)
    assert (row.stage, row.worker) == (None, None)
    again = claimed(database)
    assert (again.attempt, again.suspect) == (2, False)
    dies(database, job_id)
    lifecycle.begin_isolated(database, claimed(database).attempt_id)
    dies(database, job_id)
    alone = claimed(database)
    lifecycle.begin_isolated(database, alone.attempt_id)
    lifecycle.release(database, [alone.attempt_id])
    row = read(database, job_id)
    assert (row.state, row.deaths, row.suspect, row.isolated) == ("queued", 1, True, False)
    assert claim(database) is not None  # nobody died: nobody waits for a worker to come back


def test_a_process_that_ends_by_a_pass_says_whose_it_was(database: Database, tenant: UUID) -> None:
    jobs = [claimed_job(database, tenant) for _ in range(3)]
    elsewhere = add_job(database, tenant)
    claiming.claim(database, worker="another", model="M", lease=LEASE)
    show(database, replace(ANOTHER, id="w"), WorkerState.READY)
    assert (
        lifecycle.release_after_device_failure(database, "w", [job.attempt_id for job in jobs[:2]], max_attempts=3) == 3
    )
    with database.begin() as session:
        assert registry.list_workers(session) == []  # nobody is to count on it
    assert read(database, elsewhere).state == "running"
    rows = [read(database, job.id) for job in jobs]
    assert [(row.state, row.deaths, row.suspect) for row in rows] == [
        ("queued", 0, True),
        ("queued", 0, True),
        ("queued", 0, False),
    ]
    assert [row.beat_at is None for row in rows] == [False, False, True]


def test_a_process_that_ends_leaves_what_it_has_ended_as_it_is(database: Database, tenant: UUID) -> None:
    ended, carried = claimed_job(database, tenant), claimed_job(database, tenant)
    lifecycle.succeed(database, ended.attempt_id, RESULT)
    before = columns(database, ended.id)
    assert (
        lifecycle.release_after_device_failure(database, "w", [ended.attempt_id, carried.attempt_id], max_attempts=3)
        == 1
    )
    assert columns(database, ended.id) == before


def test_a_pass_with_one_image_counts_whatever_else_the_process_carried(database: Database, tenant: UUID) -> None:
    culprit, other = claimed_job(database, tenant).id, claimed_job(database, tenant).id
    for deaths in (1, 2, 3):
        lifecycle.release_after_device_failure(
            database, "w", [AttemptId(culprit, read(database, culprit).attempt)], max_attempts=3
        )
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
        session.execute(update(JobRow).values(deadline_at=func.now() - timedelta(seconds=1)))
    assert claim(database) is None
    report = sweeping.sweep(database, max_attempts=3)
    assert report is not None
    assert report.expired == 2
    for job_id in (running, waiting):
        row = read(database, job_id)
        assert (row.state, row.error_code) == ("expired", "deadline_exceeded")


def test_terminal_states_never_change(database: Database, tenant: UUID) -> None:
    job_id = add_job(database, tenant)
    attempt = claimed(database).attempt
    lifecycle.fail(database, AttemptId(job_id, attempt), JobError(ErrorCode.CORRUPT_IMAGE))
    finished_at = read(database, job_id).finished_at
    with database.begin() as session:
        lifecycle.cancel(session, tenant, job_id)
    with pytest.raises(LeaseLostError):
        lifecycle.succeed(database, AttemptId(job_id, attempt), RESULT)
    lifecycle.release(database, [AttemptId(job_id, attempt)])
    expired(database, job_id)
    assert sweeping.sweep(database, max_attempts=3) == sweeping.SweepReport()
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
        session.execute(update(JobRow).where(JobRow.id.in_([cursed, overdue])).values(deadline_at=hour_ago))
    with structlog.testing.capture_logs() as told:
        report = sweeping.sweep(database, max_attempts=3)
    assert report is not None
    assert (report.expired, report.released) == (1, 1)
    assert [(line["event"], line["job_id"]) for line in told] == [("job_not_swept", str(cursed))]
    assert [read(database, job_id).state for job_id in (cursed, overdue, dropped)] == ["running", "expired", "queued"]


#: What nobody foresaw: the database refuses that this one job ends.
_CURSE = """
CREATE FUNCTION curse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.id = '{}' AND NEW.finished_at IS NOT NULL THEN RAISE EXCEPTION 'cursed'; END IF; RETURN NEW; END $$;
CREATE TRIGGER curse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION curse();
"""


@pytest.mark.parametrize(("over", "became"), [(expired, "expired"), (end_lease, "queued")])
def test_a_job_that_another_transaction_holds_keeps_no_other_from_being_swept(
    database: Database, tenant: UUID, over: Callable[[Database, UUID], None], became: str
) -> None:
    held, other = (claimed_job(database, tenant).id for _ in range(2))
    over(database, held)
    over(database, other)
    with database.begin() as session:
        lock(session, held)
        sweeping.sweep(database, max_attempts=3)  # and waits for no lock
    assert [read(database, job_id).state for job_id in (held, other)] == ["running", became]


def test_a_worker_that_is_heard_of_while_a_sweep_looks_keeps_its_job(database: Database, tenant: UUID) -> None:
    job = claimed_job(database, tenant)
    end_lease(database, job.id)
    beat = partial(lifecycle.heartbeat, database, {job.attempt_id: Stage.DIFFUSING}, lease=LEASE)
    once_after(database, "FROM running_jobs WHERE lease_until < now()", beat)
    assert sweeping.sweep(database, max_attempts=3) == sweeping.SweepReport()
    assert read(database, job.id).state == "running"


def test_a_sweep_takes_so_many_at_most_and_first_what_is_overdue_for_longest(
    database: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_SWEEP_BATCH", 2)
    dropped = [claimed_job(database, tenant).id for _ in range(3)]
    overdue = [add_job(database, tenant) for _ in range(3)]
    for job_id in dropped:
        end_lease(database, job_id)
    with database.begin() as session:
        for hours, job_id in enumerate(overdue, start=1):
            over = func.now() - timedelta(hours=hours)
            session.execute(update(JobRow).where(JobRow.id == job_id).values(deadline_at=over))
        session.execute(text("ANALYZE jobs"))  # so that it reads these few in the order in which they lie
    first = sweeping.sweep(database, max_attempts=3)
    assert [read(database, job_id).state for job_id in overdue] == ["queued", "expired", "expired"]
    second = sweeping.sweep(database, max_attempts=3)
    assert [(report.expired, report.released) for report in (first, second) if report] == [(2, 2), (1, 1)]


def test_one_process_sweeps_at_a_time(database: Database, tenant: UUID) -> None:
    with database.begin() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": sweeping.SWEEP_LOCK})
        assert sweeping.sweep(database, max_attempts=3) is None
    assert sweeping.sweep(database, max_attempts=3) is not None


def test_a_sweep_counts_what_waits_and_nothing_else(database: Database, tenant: UUID) -> None:
    for _ in range(5):
        add_job(database, tenant)
    ended = claimed(database)
    lifecycle.fail(database, ended.attempt_id, JobError(ErrorCode.CORRUPT_IMAGE))
    claimed(database)
    assert sweeping.sweep(database, max_attempts=3) == sweeping.SweepReport(queued=3)


def test_who_ends_a_job_learns_whether_a_webhook_is_to_be_sent(database: Database, tenant: UUID) -> None:
    def end_two() -> list[bool]:
        good, bad = claimed_job(database, tenant), claimed_job(database, tenant)
        error = JobError(ErrorCode.CORRUPT_IMAGE)
        return [lifecycle.succeed(database, good.attempt_id, RESULT), lifecycle.fail(database, bad.attempt_id, error)]

    assert end_two() == [False, False]
    with database.begin() as session:
        create_endpoint(session, VAULT, tenant, "https://example.org/failures", ["job.failed"])
    assert end_two() == [False, True]


def test_a_deadlock_is_an_outage_that_passes_and_not_an_error_of_the_program(database: Database, tenant: UUID) -> None:
    jobs = [add_job(database, tenant) for _ in range(2)]
    both_hold_one = Barrier(2)

    def lock_both(first: UUID, second: UUID) -> bool:
        try:
            with database.begin() as session:
                lock(session, first)
                both_hold_one.wait(10)
                lock(session, second)
        except DatabaseUnavailableError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lock_both, jobs, reversed(jobs))) == [False, True]


MOVERS: dict[str, Callable[[Database, list[ClaimedJob]], object]] = {
    "heartbeat": lambda database, jobs: lifecycle.heartbeat(
        database, {job.attempt_id: Stage.DECODING for job in jobs}, lease=LEASE
    ),
    "give back": lambda database, jobs: lifecycle.release(database, [job.attempt_id for job in jobs]),
    "release_after_device_failure": lambda database, _: lifecycle.release_after_device_failure(
        database, "w", [], max_attempts=3
    ),
}


@pytest.mark.parametrize("move", MOVERS.values(), ids=MOVERS)
def test_jobs_are_locked_in_one_order_so_that_no_two_wait_for_each_other(
    database: Database, tenant: UUID, move: Callable[[Database, list[ClaimedJob]], object]
) -> None:
    for _ in range(6):
        add_job(database, tenant)
    jobs = sorted((claimed(database) for _ in range(6)), key=lambda job: job.id, reverse=True)
    with ThreadPoolExecutor(1) as pool, database.begin() as session:
        lock(session, jobs[-1].id)
        moved = pool.submit(move, database, jobs)
        until_it_waits(session, moved)
        others = select(JobRow.id).where(JobRow.id != jobs[-1].id)
        assert (
            len(session.execute(others.with_for_update(nowait=True)).all()) == 5
        )  # it waits for the first, and holds none
        session.commit()
        moved.result(10)
