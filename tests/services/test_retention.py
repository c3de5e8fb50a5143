"""What is deleted goes with all its bytes, whoever dies in between; what a job refers to stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

from deploy.local.services import ServiceUrls
from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.row_level_security import WORKER_ROLE
from shared.database.tables import Erasure, JobRow, ResultRow, WebhookDelivery
from shared.domain import EVENT_TYPES, AnalyzedImage, ClaimedJob, FeatureMean, JobResult, ModelIdentity, NewJob, Region
from shared.errors import ErrorCode, JobError, LeaseLostError, StoreUnavailableError
from shared.jobs import claiming, lifecycle
from shared.jobs.retention import (
    GRACE,
    Backlog,
    Walked,
    backlog,
    collect_orphans,
    delete_job,
    delete_old,
    erase,
    erase_some,
)
from shared.settings import Settings
from shared.storage.object_store import ObjectStore, artifact_key, job_prefix, source_key
from shared.webhooks.deliveries import Try, claim_due, record_try
from shared.webhooks.endpoints import create_endpoint
from shared.webhooks.retry_schedule import Delivered
from tests.support.databases import add_tenant, as_role
from tests.support.juicefs import juicefs_gateway
from tests.support.service_settings import SECRET_KEY, settings_for
from worker.maintenance.retention import Retention

NOW = timedelta()
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module", params=["nanio", "juicefs"])
def settings(
    request: pytest.FixtureRequest, services: ServiceUrls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    embedded = settings_for(services)
    if request.param == "nanio":
        yield embedded
    else:
        with juicefs_gateway(tmp_path_factory.mktemp("juicefs"), embedded) as other:
            yield other


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    """The store, emptied: a walk sees the whole bucket."""
    store = ObjectStore(settings)
    assert store.delete_all(store.keys("")) == []
    return store


def submit(database: Database, store: ObjectStore, tenant: UUID) -> UUID:
    job_id = uuid4()
    key = source_key(tenant, job_id)
    store.put(key, BytesIO(b"image"), 5, "image/png")
    with database.begin() as session:
        lifecycle.create(session, NewJob(job_id, tenant, key, "00" * 32, 5, "image/png"), deadline=HOUR)
    return job_id


def claim(database: Database) -> ClaimedJob:
    job = claiming.claim(database, worker="w", model="M", lease=HOUR)
    assert job is not None
    return job


def succeed(database: Database, store: ObjectStore, job: ClaimedJob) -> None:
    key = artifact_key(job.tenant_id, job.id, job.attempt, "heatmap")
    result = JobResult(
        prediction="REAL",
        confidence=0.9,
        probability_fake=0.1,
        raw_probability_fake=0.1,
        threshold=0.5,
        policy=None,
        stability=None,
        processing_time=0.1,
        device_seconds=0.25,
        image=AnalyzedImage(8, 8, Region(0, 0, 8, 8), "image/png", "PNG", None),
        model=ModelIdentity("M", "ab" * 32, demonstration=True, device="cpu", precision="fp32"),
        timings={},
        caveats=(),
        feature_mean=FeatureMean(b"\0" * 4, 1, 1),
        artifacts={"heatmap": store.put_artifact(key, b"png")},
    )
    lifecycle.succeed(database, job.attempt_id, result)


def finished(database: Database, store: ObjectStore, tenant: UUID, *, days_ago: int = 0) -> UUID:
    """A job with a result and pictures, that ended a while ago."""
    job_id = submit(database, store, tenant)
    succeed(database, store, claim(database))
    with database.begin() as session:
        ended = func.now() - timedelta(days=days_ago)
        session.execute(update(JobRow).where(JobRow.id == job_id).values(finished_at=ended))
    return job_id


def jobs(database: Database) -> set[UUID]:
    with database.begin() as session:
        return {*session.scalars(select(JobRow.id))}


def erasures(database: Database) -> set[UUID]:
    with database.begin() as session:
        return {*session.scalars(select(Erasure.job_id))}


def stored(store: ObjectStore) -> set[str]:
    return {*store.keys("")}


def make_due(database: Database) -> None:
    with database.begin() as session:
        session.execute(text("UPDATE erasures SET due_at = now()"))
        session.execute(text("UPDATE bucket_walk SET next_at = now()"))


def test_a_job_that_has_ended_goes_with_its_rows_and_all_its_bytes(
    database: Database, store: ObjectStore, tenant: UUID
) -> None:
    with database.begin() as session:
        create_endpoint(session, Vault(SECRET_KEY), tenant, "https://example.org/hook", EVENT_TYPES)
    gone, kept = finished(database, store, tenant), finished(database, store, tenant)
    store.put_artifact(artifact_key(tenant, gone, 7, "overlay"), b"of an attempt that died")
    with database.begin() as session:
        assert delete_job(session, tenant, gone) is not None
    erase(database, store, tenant, gone)
    assert store.keys(job_prefix(tenant, gone)) == []
    assert stored(store) == {source_key(tenant, kept), artifact_key(tenant, kept, 1, "heatmap")}
    with database.begin() as session:
        assert session.scalars(select(ResultRow.job_id)).all() == [kept]
        assert session.scalars(select(WebhookDelivery.job_id)).all() == [kept]
    assert erasures(database) == set()


def test_what_is_kept_is_each_tenants_own_affair(database: Database, store: ObjectStore) -> None:
    default, short, long = (
        add_tenant(database, "default"),
        add_tenant(database, "short", retention_days=2),
        add_tenant(database, "long", retention_days=365),
    )
    old = {name: finished(database, store, tenant, days_ago=31) for name, tenant in (("d", default), ("l", long))}
    young = {finished(database, store, default, days_ago=29), finished(database, store, short, days_ago=1)}
    middle = finished(database, store, short, days_ago=3)
    waiting = submit(database, store, default)
    assert delete_old(database, days=None) == 1  # nothing goes by itself; one tenant asked for it
    assert jobs(database) == {*old.values(), *young, waiting}
    assert delete_old(database, days=30) == 1
    assert jobs(database) == {old["l"], *young, waiting}
    assert erasures(database) == {middle, old["d"]}


def test_old_jobs_go_a_few_at_a_time_the_oldest_first(database: Database, store: ObjectStore, tenant: UUID) -> None:
    ages = {finished(database, store, tenant, days_ago=days): days for days in (5, 9, 7, 3)}
    assert delete_old(database, days=1, most=3) == 3
    assert [ages[job] for job in jobs(database)] == [3]
    assert delete_old(database, days=1, most=3) == 1


def test_a_webhook_that_still_waits_goes_with_its_job(database: Database, store: ObjectStore, tenant: UUID) -> None:
    with database.begin() as session:
        create_endpoint(session, Vault(SECRET_KEY), tenant, "https://hanging.example/hook", EVENT_TYPES)
    for _ in range(3):
        finished(database, store, tenant, days_ago=9)
    claimed = claim_due(database, lease=HOUR, per_endpoint=1)
    assert claimed is not None
    assert delete_old(database, days=1) == 3
    with database.begin() as session:
        assert session.scalars(select(WebhookDelivery.id)).all() == []
    with pytest.raises(LeaseLostError), database.begin() as session:  # the try that was under way meanwhile
        record_try(session, claimed, Try(datetime.now(UTC), 1, status=200), Delivered())


def many_old(database: Database, store: ObjectStore, tenant: UUID, count: int, *, stored: int = 0) -> None:
    """So many jobs that ended long ago, of `stored` of which there are bytes in the store."""
    with database.begin() as session:
        ids = session.scalars(
            text("""
            INSERT INTO jobs (id, tenant_id, state, attempt, deadline_at, finished_at, pictures, metadata, source_key,
                              source_sha256, source_bytes, media_type)
            SELECT gen_random_uuid(), :tenant, 'succeeded', 1, now(), now() - interval '9 days', '{}', '{}', 'key',
                   'digest', 1, 'image/png'
            FROM generate_series(1, :count) RETURNING id
            """),
            {"tenant": tenant, "count": count},
        ).all()
    for job_id in ids[:stored]:
        store.put(source_key(tenant, job_id), BytesIO(b"image"), 5, "image/png")
        store.put_artifact(artifact_key(tenant, job_id, 1, "overlay"), b"png")


def test_one_round_goes_on_until_nothing_is_left(database: Database, store: ObjectStore, tenant: UUID) -> None:
    many_old(database, store, tenant, 1_300, stored=20)
    Retention(database, store, retention_days=7).tidy()
    assert jobs(database) == set()
    assert erasures(database) == set()
    assert stored(store) == set()


def test_the_bytes_of_many_jobs_go_by_few_calls_of_the_store(
    database: Database, store: ObjectStore, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_old(database, store, tenant, 500, stored=12)
    delete_old(database, days=1)
    calls: list[int] = []
    delete_all = store.delete_all

    def counting(keys: Sequence[str]) -> list[str]:
        calls.append(len(keys))
        return delete_all(keys)

    monkeypatch.setattr(store, "delete_all", counting)
    monkeypatch.delattr(ObjectStore, "keys")  # nothing need be listed: it is known where the bytes can lie
    assert erase_some(database, store, most=500) == 500
    monkeypatch.undo()
    assert calls == [100] * 25  # the image and four pictures of one attempt, of 500 jobs
    assert (erasures(database), stored(store)) == (set(), set())


def test_what_the_store_refuses_to_delete_is_noted_still_and_all_else_is_done(
    database: Database, store: ObjectStore, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _, _ = (finished(database, store, tenant, days_ago=9) for _ in range(3))
    delete_old(database, days=1)
    delete_all = store.delete_all

    def refusing(keys: Sequence[str]) -> list[str]:
        mine = [key for key in keys if str(kept) in key]
        return mine + delete_all([key for key in keys if key not in mine])

    monkeypatch.setattr(store, "delete_all", refusing)
    with pytest.raises(StoreUnavailableError, match="refused to delete"):
        erase_some(database, store)
    monkeypatch.undo()
    assert erasures(database) == {kept}
    assert stored(store) == {source_key(tenant, kept), artifact_key(tenant, kept, 1, "heatmap")}
    make_due(database)
    assert erase_some(database, store) == 1
    assert stored(store) == set()


def test_of_a_note_that_says_no_attempts_the_store_is_asked(
    database: Database, store: ObjectStore, tenant: UUID
) -> None:
    """As the version before wrote it."""
    job_id = finished(database, store, tenant, days_ago=9)
    delete_old(database, days=1)
    store.put_artifact(artifact_key(tenant, job_id, 9, "overlay"), b"of an attempt that nobody counted")
    with database.begin() as session:
        session.execute(update(Erasure).values(attempts=None))
    assert erase_some(database, store) == 1
    assert stored(store) == set()


def test_every_attempts_bytes_go(database: Database, store: ObjectStore, tenant: UUID) -> None:
    job_id = submit(database, store, tenant)
    first = claim(database)
    store.put_artifact(artifact_key(tenant, job_id, first.attempt, "overlay"), b"left behind")
    lifecycle.release(database, [first.attempt_id])
    succeed(database, store, claim(database))
    with database.begin() as session:
        session.execute(update(JobRow).values(finished_at=func.now() - timedelta(days=9)))
    Retention(database, store, retention_days=7).tidy()
    assert stored(store) == set()


def test_the_backlog_is_told_up_to_what_is_much(database: Database, store: ObjectStore, tenant: UUID) -> None:
    add_tenant(database, "short", retention_days=1)
    many_old(database, store, tenant, 30)

    def backlog_of(days: int | None) -> Backlog:
        with database.begin() as session:
            return backlog(session, days=days)

    assert backlog_of(None) == Backlog(0, 0)
    assert backlog_of(7) == Backlog(30, 0)
    delete_old(database, days=7, most=10)
    assert backlog_of(7) == Backlog(20, 10)
    many_old(database, store, tenant, 10_100)
    assert backlog_of(7) == Backlog(10_000, 10)


def test_retention_that_is_told_to_stop_begins_nothing(database: Database, store: ObjectStore, tenant: UUID) -> None:
    job_id = finished(database, store, tenant, days_ago=9)
    retention = Retention(database, store, retention_days=1)
    retention.stop()
    retention.tidy()
    assert jobs(database) == {job_id}


def test_a_round_does_all_of_it_in_the_workers_role(
    database: Database, empty_database: str, store: ObjectStore, tenant: UUID
) -> None:
    for _ in range(3):
        finished(database, store, tenant, days_ago=9)
    kept = finished(database, store, tenant)
    with Database(as_role(empty_database, WORKER_ROLE)) as restricted:
        Retention(restricted, store, retention_days=7).tidy()
    assert jobs(database) == {kept}
    assert stored(store) == {source_key(tenant, kept), artifact_key(tenant, kept, 1, "heatmap")}
    assert erasures(database) == set()


_DIE_IN_BETWEEN = """
from shared.database.engine import Database
from shared.settings import Settings
from shared.storage.object_store import ObjectStore
from worker.maintenance.retention import Retention
settings = Settings.read()
Retention(Database(settings.database_url.get_secret_value()), ObjectStore(settings), retention_days=1).tidy()
"""


def test_a_kill_between_row_and_bytes_leaves_nothing_behind(
    database: Database, empty_database: str, store: ObjectStore, settings: Settings, tenant: UUID
) -> None:
    """The store takes retention's call and is silent; there retention is killed."""
    job_id = finished(database, store, tenant, days_ago=9)
    with database.begin() as session:  # no walk through the bucket now: the first call is that which erases
        session.execute(text("INSERT INTO bucket_walk (next_at) VALUES (now() + interval '1 h')"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        environment = {
            "DISTILDIRE_DATABASE_URL": empty_database,
            "DISTILDIRE_REDIS_URL": "redis://127.0.0.1:1/0",
            "DISTILDIRE_SECRET_KEY": SECRET_KEY,
            "DISTILDIRE_S3_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "DISTILDIRE_S3_ACCESS_KEY": "x",
            "DISTILDIRE_S3_SECRET_KEY": "x",
        }
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", _DIE_IN_BETWEEN]
        process = subprocess.Popen(command, env={"PATH": os.environ["PATH"], **environment}, cwd=root)
        with silent.accept()[0]:
            process.send_signal(signal.SIGKILL)
            process.wait(20)
    assert process.returncode == -signal.SIGKILL
    assert jobs(database) == set()
    assert len(store.keys(job_prefix(tenant, job_id))) == 2
    Retention(database, store, retention_days=1).tidy()  # not at once: whoever took it may still be at it
    assert erasures(database) == {job_id}
    make_due(database)
    Retention(database, store, retention_days=1).tidy()
    assert store.keys(job_prefix(tenant, job_id)) == []
    assert erasures(database) == set()


def test_where_the_store_is_away_the_bytes_wait_and_the_next_job_has_its_turn(
    database: Database, store: ObjectStore, settings: Settings, tenant: UUID
) -> None:
    for _ in range(2):
        finished(database, store, tenant, days_ago=9)
    delete_old(database, days=1)
    away = ObjectStore(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"}))
    with pytest.raises(StoreUnavailableError):
        erase_some(database, away, most=1)
    assert len(erasures(database)) == 2
    assert erase_some(database, store) == 1
    assert erase_some(database, store) == 0  # the first one's turn comes again in a minute
    make_due(database)
    assert erase_some(database, store) == 1
    assert stored(store) == set()


def walk(database: Database, store: ObjectStore, *, grace: timedelta) -> Walked:
    """Walk to the end: the first page may hold nothing but folders that were left empty, which JuiceFS lists."""
    pages = iter(lambda: collect_orphans(database, store, grace=grace), None)
    return Walked(*map(sum, zip(*map(astuple, pages), strict=True)))


def test_a_walk_goes_on_past_pages_of_folders_that_were_left_empty(
    database: Database, store: ObjectStore, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.jobs.retention._PAGE", 10)
    keys = [artifact_key(tenant, uuid4(), 1, "heatmap") for _ in range(30)]
    for key in keys:
        store.put_artifact(key, b"png")
    assert store.delete_all(keys) == []
    Retention(database, store, retention_days=None).tidy()
    with database.begin() as session:
        ended = text("SELECT after_key = '' AND next_at > now() + interval '1 hour' FROM bucket_walk")
        assert session.scalar(ended)


def test_orphans_go_after_a_day_and_what_a_job_refers_to_stays(
    database: Database, store: ObjectStore, tenant: UUID
) -> None:
    done, failed, running = (submit(database, store, tenant) for _ in range(3))
    succeed(database, store, claim(database))
    lost = claim(database)
    store.put_artifact(artifact_key(tenant, failed, lost.attempt, "heatmap"), b"png")
    lifecycle.fail(database, lost.attempt_id, JobError(ErrorCode.INTERNAL))
    at_work = claim(database)
    store.put_artifact(artifact_key(tenant, running, at_work.attempt, "heatmap"), b"png")
    never_committed = source_key(tenant, uuid4())
    store.put(never_committed, BytesIO(b"image"), 5, "image/png")
    foreign = {"backups/of-somebody-else.tar", source_key(uuid4(), uuid4())}  # the second: of another installation
    for key in foreign:
        store.put(key, BytesIO(b"tar"), 3, "application/x-tar")
    everything = stored(store)

    assert walk(database, store, grace=GRACE) == Walked(len(everything), 0, 0)
    make_due(database)
    assert walk(database, store, grace=NOW) == Walked(len(everything), 2, 0)
    assert everything - stored(store) == {never_committed, artifact_key(tenant, failed, 1, "heatmap")}
    assert {source_key(tenant, done), artifact_key(tenant, done, 1, "heatmap"), *foreign} < stored(store)


def test_a_job_that_is_committed_while_orphans_are_collected_loses_nothing(
    database: Database, store: ObjectStore, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector has looked its keys up, and is about to delete, when the attempt commits."""
    job_id = submit(database, store, tenant)
    job = claim(database)
    store.put_artifact(artifact_key(tenant, job_id, job.attempt, "heatmap"), b"png")
    looked_up, committed = Event(), Event()
    delete_all = store.delete_all

    def delete_late(keys: list[str]) -> list[str]:
        looked_up.set()
        assert committed.wait(20)
        return delete_all(keys)

    monkeypatch.setattr(store, "delete_all", delete_late)
    collector = Thread(target=collect_orphans, args=(database, store), kwargs={"grace": NOW})
    collector.start()
    assert looked_up.wait(20)
    succeed(database, store, job)
    committed.set()
    collector.join()
    assert stored(store) == {source_key(tenant, job_id), artifact_key(tenant, job_id, 1, "heatmap")}


def test_a_walk_goes_on_page_by_page_where_it_was_and_then_rests(
    database: Database, store: ObjectStore, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.jobs.retention._PAGE", 4)
    orphans = {source_key(tenant, uuid4()) for _ in range(9)}
    for key in orphans:
        store.put(key, BytesIO(b"x"), 1, "image/png")
    finished(database, store, tenant)
    pages = []
    while (page := collect_orphans(database, store, grace=NOW)) is not None:
        pages.append((page.objects, page.removed))
    assert len(pages) >= 3
    assert max(objects for objects, _ in pages) <= 4
    assert tuple(map(sum, zip(*pages, strict=True))) == (11, 9)
    assert len(stored(store)) == 2
    assert collect_orphans(database, store, grace=NOW) is None
    make_due(database)
    assert collect_orphans(database, store, grace=NOW) is not None
