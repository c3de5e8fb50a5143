"""The tally says what is in the queues: at every moment the same as a count of the rows, whoever writes them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from migrations.upgrade import upgrade
from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.row_level_security import API_ROLE
from shared.domain import ClaimedJob, JobState, NewJob
from shared.errors import ErrorCode, JobError, LeaseLostError
from shared.jobs import claiming, lifecycle, sweeping, tally
from shared.jobs.stats import oldest_snapshot, service_stats
from shared.jobs.tally import Totals
from shared.webhooks.deliveries import claim_due
from shared.webhooks.endpoints import create_endpoint
from tests.support.databases import add_tenant, as_role, show_tenant
from tests.support.service_settings import SECRET_KEY

LEASE = timedelta(seconds=30)
#: By counting rows.
_COUNTED = text("""
SELECT (SELECT count(*) FROM jobs WHERE state = 'queued'), (SELECT count(*) FROM jobs WHERE state = 'running'),
       (SELECT count(*) FROM webhook_deliveries WHERE state = 'pending' AND lease_until IS NULL),
       (SELECT count(*) FROM webhook_deliveries WHERE state = 'pending' AND lease_until IS NOT NULL)
""")
#: Rows that wait before the place where the tally says that their lane begins, or in a lane that it says is empty.
_OVERLOOKED = text("""
SELECT (SELECT count(*) FROM jobs WHERE state = 'queued' AND NOT EXISTS (
    SELECT FROM tally_waiting('jobs') AS lane
    WHERE owner = tenant_id AND rank = priority AND begun = (attempt > 0) AND lane.suspect = jobs.suspect
      AND lane.model = coalesce(jobs.model, '') AND lane.policy = coalesce(jobs.policy, '')
      AND (created_at, id::text) >= (at, item::text)
)) + (SELECT count(*) FROM webhook_deliveries WHERE state = 'pending' AND lease_until IS NULL AND NOT EXISTS (
    SELECT FROM tally_waiting('deliveries')
    WHERE owner = endpoint_id AND (next_attempt_at, id::text) >= (at, item::text)
))
""")


def add_job(database: Database, tenant: UUID, *, priority: int = 0) -> UUID:
    job_id = uuid4()
    with database.begin() as session:
        new = NewJob(job_id, tenant, f"{job_id}/source", "00" * 32, 5, "image/png", priority=priority)
        lifecycle.create(session, new, deadline=timedelta(hours=1))
    return job_id


def claim(database: Database) -> ClaimedJob | None:
    return claiming.claim(database, worker="w", model="M", lease=LEASE)


def fail(database: Database, job: ClaimedJob) -> None:
    lifecycle.fail(database, job.attempt_id, JobError(ErrorCode.INTERNAL))


def totals(database: Database) -> Totals:
    with database.begin() as session:
        return tally.totals(session)


def is_right(database: Database) -> bool:
    """Whether the tally says what the rows do, in one snapshot."""
    with database.begin() as session:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        told, counted = tally.totals(session), session.execute(_COUNTED).one()
        by_tenant = tally.open_jobs_of_all(session)
        running = session.scalars(text("SELECT id FROM running_jobs")).all()
        return (
            (told.jobs_waiting, told.jobs_running, told.deliveries_waiting, told.deliveries_running) == (*counted,)
            and sum(by_tenant.values()) == told.open_jobs
            and all(tally.open_jobs(session, tenant) == jobs for tenant, jobs in by_tenant.items())
            and len(running) == told.jobs_running
            and session.scalar(_OVERLOOKED) == 0
        )


class Chance:
    """Does at random what may happen to jobs and deliveries."""

    def __init__(self, database: Database, seed: int) -> None:
        self._database = database
        self._random = random.Random(seed)
        self._tenants = [add_tenant(database, f"tenant {seed} {number}") for number in range(3)]
        for tenant in self._tenants:
            with database.begin() as session:
                create_endpoint(session, Vault(SECRET_KEY), tenant, "https://example.org/", ["job.failed"])
        self._carried: list[ClaimedJob] = []

    def step(self) -> None:
        self._random.choice([self._submit, self._submit, self._take, self._take, self._end, self._change, self._send])()

    def _submit(self) -> None:
        add_job(self._database, self._random.choice(self._tenants), priority=self._random.choice([0, 0, 5]))

    def _take(self) -> None:
        self._carried += claiming.claim_several(
            self._database, worker="w", model="M", lease=LEASE, most=self._random.randint(1, 4)
        )

    def _end(self) -> None:
        if not self._carried:
            return
        job = self._carried.pop(self._random.randrange(len(self._carried)))
        with contextlib.suppress(LeaseLostError):
            self._random.choice([fail, fail, self._give_back, self._cancel, self._drop])(self._database, job)

    def _give_back(self, database: Database, job: ClaimedJob) -> None:
        lifecycle.release(database, [job.attempt_id])

    def _cancel(self, database: Database, job: ClaimedJob) -> None:
        with database.begin() as session:
            lifecycle.cancel(session, job.tenant_id, job.id)

    def _drop(self, database: Database, job: ClaimedJob) -> None:
        self._execute("UPDATE jobs SET lease_until = now() - interval '1 h', beat_at = NULL WHERE id = :id", id=job.id)
        sweeping.sweep(database, max_attempts=3)

    def _change(self) -> None:
        some = "WHERE id IN (SELECT id FROM jobs WHERE state = 'queued' ORDER BY random() LIMIT 2)"
        self._execute(
            self._random.choice(
                [
                    f"UPDATE jobs SET priority = 3 {some}",
                    f"UPDATE jobs SET policy = 'strict' {some}",
                    f"UPDATE jobs SET created_at = created_at - interval '1 h' {some}",
                    f"DELETE FROM jobs {some}",
                ]
            )
        )

    def _send(self) -> None:
        if claim_due(self._database, lease=LEASE, per_endpoint=9) is None:
            return
        later = "lease_until = NULL, next_attempt_at = now() + interval '1 h' WHERE lease_until IS NOT NULL"
        done = "state = 'delivered', lease_until = NULL, next_attempt_at = NULL WHERE lease_until IS NOT NULL"
        at_once = "next_attempt_at = now() WHERE state = 'pending'"
        self._execute(f"UPDATE webhook_deliveries SET {self._random.choice([later, done, at_once])}")

    def _execute(self, statement: str, **values: object) -> None:
        with self._database.begin() as session:
            session.execute(text(statement), values)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_it_says_what_the_rows_do(database: Database, seed: int) -> None:
    chance = Chance(database, seed)
    for number in range(120):
        chance.step()
        if number % 7 == 0:
            assert is_right(database)
            tally.fold(database)
            assert is_right(database)


def test_it_is_right_at_every_moment_while_many_write_and_fold(database: Database) -> None:
    def write(seed: int) -> None:
        chance = Chance(database, seed)
        for number in range(60):
            chance.step()
            if number % 5 == seed % 5:
                tally.fold(database)

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, seed) for seed in range(4)]
        while not all(each.done() for each in writing):
            assert is_right(database)
        for each in writing:
            each.result()
    assert is_right(database)


@pytest.fixture
def elsewhere(database: Database) -> Iterator[Callable[[], Session]]:
    """Begin transactions that go on beside the test."""
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(database.begin())


def test_what_was_written_before_a_fold_and_committed_after_it_is_found(
    database: Database, tenant: UUID, elsewhere: Callable[[], Session]
) -> None:
    slow = elsewhere()
    new = NewJob(uuid4(), tenant, "key", "00" * 32, 5, "image/png")
    lifecycle.create(slow, new, deadline=timedelta(hours=1))
    later = add_job(database, tenant)
    tally.fold(database)
    job = claim(database)
    assert job is not None
    assert job.id == later
    fail(database, job)
    tally.fold(database)  # what waits seems to begin later now
    slow.commit()
    assert is_right(database)
    found = claim(database)
    assert found is not None
    assert found.id == new.id


def test_who_claims_and_is_rolled_back_hides_nothing(
    database: Database, tenant: UUID, elsewhere: Callable[[], Session]
) -> None:
    first = add_job(database, tenant)
    slow = elsewhere()
    [taken], _ = claiming.take(slow, worker="w", model="M", lease=LEASE)
    assert taken.id == first
    second = add_job(database, tenant)
    other = claim(database)
    assert other is not None
    assert other.id == second
    tally.fold(database)
    slow.rollback()
    assert is_right(database)
    again = claim(database)
    assert again is not None
    assert again.id == first


def test_a_job_that_is_queued_again_keeps_its_place(database: Database, tenant: UUID) -> None:
    jobs = [add_job(database, tenant) for _ in range(4)]
    taken = [claim(database) for _ in jobs[:3]]
    tally.fold(database)
    lifecycle.release(database, [job.attempt_id for job in taken[:1] if job])
    tally.fold(database)
    again, last = claim(database), claim(database)
    assert again is not None
    assert last is not None
    assert (again.id, last.id) == (jobs[0], jobs[3])


def test_of_a_thousand_moves_the_last_folds_them(database: Database, tenant: UUID) -> None:
    def folds() -> int:
        with database.begin() as session:
            return int(session.scalar(text("SELECT max(id) FROM tally_folds")) or 0)

    before = folds()
    for _ in range(300):
        add_job(database, tenant)
    while job := claim(database):
        fail(database, job)
    assert folds() > before
    with database.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM tally_moves")) <= 1_200


def test_many_rows_in_one_transaction_are_folded_once(database: Database, tenant: UUID) -> None:
    with database.begin() as session:
        before = session.scalar(text("SELECT max(id) FROM tally_folds"))
        session.execute(
            text("""
            INSERT INTO jobs (id, tenant_id, deadline_at, pictures, metadata, source_key, source_sha256,
                              source_bytes, media_type)
            SELECT gen_random_uuid(), :tenant, now() + interval '1 h', '{}', '{}', 'key', '', 1, 'image/png'
            FROM generate_series(1, 5500)
            """),
            {"tenant": tenant},
        )
        assert session.scalar(text("SELECT max(id) FROM tally_folds")) == before + 1
    assert is_right(database)
    assert totals(database).jobs_waiting == 5_500


def test_in_a_copy_that_was_restored_elsewhere_it_is_right_and_begins_anew(database: Database, tenant: UUID) -> None:
    """There the numbers of transactions are lower than the last fold says."""
    for _ in range(3):
        add_job(database, tenant)
    tally.fold(database)
    with database.begin() as session:
        session.execute(text("UPDATE tally_folds SET from_xid = from_xid + 1000000"))
    add_job(database, tenant)
    assert claim(database) is not None
    assert is_right(database)
    tally.fold(database)
    assert is_right(database)
    assert (totals(database).jobs_waiting, totals(database).jobs_running) == (3, 1)
    with database.begin() as session:
        last = session.execute(text("SELECT since FROM tally_last")).one()
        assert 0 < last.since < 1_000_000


def test_an_upgrade_counts_anew(database: Database, empty_database: str, tenant: UUID) -> None:
    add_job(database, tenant)
    tally.fold(database)
    with database.begin() as session:
        session.execute(text("DELETE FROM tally_lanes"))
        session.execute(text("UPDATE tally_folds SET jobs_waiting = 7, failed = 5"))
    upgrade(empty_database)
    assert is_right(database)
    assert totals(database).failed == 5  # what ended before cannot be counted again


def test_emptied_tables_leave_an_empty_tally(database: Database, tenant: UUID) -> None:
    add_job(database, tenant)
    job = claim(database)
    assert job is not None
    fail(database, job)
    add_job(database, tenant)
    with database.begin() as session:
        session.execute(text("TRUNCATE tenants CASCADE"))
    assert totals(database) == Totals(0, 0, 0, 0, 0, 0, 0, 0)
    assert is_right(database)


def test_a_tenant_that_goes_takes_its_jobs_out_of_the_queue(database: Database, tenant: UUID) -> None:
    add_job(database, tenant)
    add_job(database, add_tenant(database, "b"))
    with database.begin() as session:
        session.execute(text("DELETE FROM tenants WHERE id = :tenant"), {"tenant": tenant})
    assert is_right(database)
    assert totals(database).jobs_waiting == 1


def test_ends_are_counted_by_their_state_and_forgotten_with_time(database: Database, tenant: UUID) -> None:
    for _ in range(3):
        add_job(database, tenant)
    for _ in range(2):
        job = claim(database)
        assert job is not None
        fail(database, job)
    job = claim(database)
    assert job is not None
    with database.begin() as session:
        lifecycle.cancel(session, tenant, job.id)
        assert service_stats(session).ended == {"succeeded": 0, "failed": 2, "canceled": 1, "expired": 0}
    tally.fold(database)
    with database.begin() as session:
        session.execute(text("UPDATE tally_folds SET at = at - interval '2 minutes'"))
        assert service_stats(session).jobs_per_minute == 0
        assert tally.ended(session, timedelta(minutes=5))[JobState.FAILED] == 2


def test_the_role_of_the_api_sees_what_its_tenant_has_open_and_sums_over_all(
    database: Database, empty_database: str, tenant: UUID
) -> None:
    other = add_tenant(database, "b")
    for _ in range(2):
        add_job(database, tenant)
    tally.fold(database)
    add_job(database, other)
    with Database(as_role(empty_database, API_ROLE)) as restricted, restricted.begin() as session:
        show_tenant(session, tenant)
        assert tally.open_jobs(session, tenant) == 2
        assert tally.open_jobs(session, other) == 0
        assert tally.open_jobs_of_all(session) == {tenant: 2}
        assert tally.totals(session).jobs_waiting == 3
        assert tally.oldest_waiting_seconds(session) is not None


def test_who_holds_a_snapshot_is_named(database: Database) -> None:
    with database.begin() as session:
        assert oldest_snapshot(session) is None
    url = database.engine.url.update_query_dict({"application_name": "pg_dump"})
    engine = create_engine(url, isolation_level="REPEATABLE READ", poolclass=NullPool)
    with engine.connect() as dump:
        dump.execute(text("SELECT count(*) FROM jobs"))
        pid = dump.scalar(text("SELECT pg_backend_pid()"))
        with database.begin() as session:
            held = oldest_snapshot(session)
    assert held is not None
    assert (held.pid, held.application) == (pid, "pg_dump")
    assert 0 <= held.seconds < 60
