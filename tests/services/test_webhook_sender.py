"""Webhooks on their way: a real PostgreSQL, real receivers, the published verifier."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from uuid import UUID, uuid4

import pytest
import structlog
from sqlalchemy import func, select, text, update
from standardwebhooks import Webhook

from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.row_level_security import WORKER_ROLE
from shared.database.statements import statement
from shared.database.tables import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from shared.domain import JobOptions, NewJob
from shared.errors import LeaseLostError
from shared.jobs import lifecycle, tally
from shared.webhooks.deliveries import ClaimedDelivery, Try, claim_due, is_due, record_try, resend
from shared.webhooks.endpoints import (
    create_endpoint,
    delete_endpoint,
    disable_endpoint,
    enable_endpoint,
    find_endpoint,
    give_up,
    purge,
)
from shared.webhooks.retry_schedule import DELAYS, MOST_AGE, Delivered, Disable, Retry
from tests.support.databases import as_role
from tests.support.receivers import Receiver, running_receiver
from tests.support.waiting import until
from worker.egress.http_client import Egress
from worker.webhooks.sender import Prompt, WebhookSender

VAULT = Vault("a secret key for tests, 32 chars at least")
LEASE = timedelta(seconds=30)


@pytest.fixture
def sender(database: Database) -> Iterator[WebhookSender]:
    sender = WebhookSender(database, Egress(["127.0.0.1"]), VAULT)
    yield sender
    sender.close()


def add_endpoint(database: Database, tenant: UUID, url: str) -> tuple[UUID, str]:
    with database.begin() as session:
        endpoint, secret = create_endpoint(session, VAULT, tenant, url, ["job.canceled"])
    assert secret is not None
    return endpoint.id, secret


def end_jobs(database: Database, tenant: UUID, count: int = 1) -> None:
    """End so many jobs, each of which then tells every endpoint of the tenant."""
    for _ in range(count):
        job_id = uuid4()
        with database.begin() as session:
            options = JobOptions(client_metadata={"naïve": "✓"})
            new = NewJob(job_id, tenant, f"{job_id}/source", "00" * 32, 5, "image/png", options)
            lifecycle.create(session, new, deadline=timedelta(hours=1))
            lifecycle.cancel(session, tenant, job_id)


def deliver_until(sender: WebhookSender, condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition while webhooks are delivered, as a worker that looks for them does."""

    def deliver_and_look() -> bool:
        sender.deliver_due()
        return condition()

    until(deliver_and_look, seconds)


def states(database: Database, endpoint: UUID) -> Counter[str]:
    with database.begin() as session:
        return Counter(
            session.scalars(select(WebhookDelivery.state).where(WebhookDelivery.endpoint_id == endpoint)).all()
        )


def only_delivery(database: Database) -> WebhookDelivery:
    with database.begin() as session:
        return session.scalars(select(WebhookDelivery)).one()


def attempts(database: Database) -> list[WebhookAttempt]:
    with database.begin() as session:
        return list(session.scalars(select(WebhookAttempt).order_by(WebhookAttempt.attempt)).all())


def now_due(database: Database) -> None:
    with database.begin() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=func.now()))


def tried(sender: WebhookSender, database: Database, count: int = 1) -> list[WebhookAttempt]:
    """Deliver what is due; return the log once it has `count` lines."""
    sender.deliver_due()
    until(lambda: len(attempts(database)) == count)
    return attempts(database)


def claim(database: Database, *, lease: timedelta = LEASE, per_endpoint: int = 4) -> ClaimedDelivery | None:
    return claim_due(database, lease=lease, per_endpoint=per_endpoint)


def test_a_webhook_arrives_once_and_the_published_verifier_accepts_it(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    endpoint, secret = add_endpoint(database, tenant, receiver.url("/200?token=t"))
    end_jobs(database, tenant)
    sender.deliver_due()
    until(lambda: states(database, endpoint) == {"delivered": 1})
    (request,) = receiver.received
    assert Webhook(secret).verify(request.body, request.headers)["type"] == "job.canceled"
    assert request.body.decode() == only_delivery(database).body
    assert json.loads(request.body)["data"]["metadata"] == {"naïve": "✓"}
    assert request.headers["content-type"] == "application/json"
    (attempt,) = attempts(database)
    assert (attempt.attempt, attempt.status, attempt.error, attempt.response_excerpt) == (1, 200, None, "answer 200")
    assert 0 <= attempt.duration_ms < 10_000
    assert abs(attempt.started_at - datetime.now(UTC)) < timedelta(minutes=1)
    delivery = only_delivery(database)
    assert (delivery.next_attempt_at, delivery.lease_until) == (None, None)
    assert delivery.finished_at is not None


@pytest.mark.parametrize(("path", "status"), [("/500", 500), ("/404", 404), ("/redirect", 302)])
def test_a_failed_try_is_logged_and_made_again_after_five_seconds(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender, path: str, status: int
) -> None:
    add_endpoint(database, tenant, receiver.url(path))
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    assert (attempt.status, attempt.error) == (status, None)
    with database.begin() as session:
        now = session.scalars(select(func.now())).one()
        again = session.scalars(select(WebhookDelivery.next_attempt_at)).one()
    assert again is not None
    assert timedelta(seconds=3) < again - now <= timedelta(seconds=5.5)
    assert only_delivery(database).state == "pending"
    sender.close()
    assert [request.path for request in receiver.received] == [path]


def test_every_try_has_the_same_id_and_its_own_time(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    _, secret = add_endpoint(database, tenant, receiver.url("/500"))
    end_jobs(database, tenant)
    tried(sender, database)
    until(lambda: int(receiver.received[0].headers["webhook-timestamp"]) < int(time.time()))
    now_due(database)
    tried(sender, database, 2)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(first.headers["webhook-timestamp"]) < int(second.headers["webhook-timestamp"])
    assert first.body == second.body
    Webhook(secret).verify(second.body, second.headers)


def test_the_last_try_gives_up(database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender) -> None:
    endpoint, _ = add_endpoint(database, tenant, receiver.url("/503"))
    end_jobs(database, tenant)
    for count in range(1, len(DELAYS) + 1):
        assert states(database, endpoint) == {"pending": 1}
        now_due(database)
        tried(sender, database, count)
    until(lambda: states(database, endpoint) == {"failed": 1})
    assert len(receiver.received) == len(DELAYS)


def test_a_delivery_that_is_sent_anew_starts_at_once_and_follows_the_whole_schedule_again(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    endpoint, _ = add_endpoint(database, tenant, receiver.url("/503"))
    end_jobs(database, tenant)
    for count in range(1, len(DELAYS) + 1):
        now_due(database)
        tried(sender, database, count)
    until(lambda: states(database, endpoint) == {"failed": 1})
    with database.begin() as session:
        resend(session, tenant, session.scalars(select(WebhookDelivery.id)).one())
    for count, delay in enumerate(DELAYS[1:], start=1):
        last = tried(sender, database, len(DELAYS) + count)[-1]  # the first: nobody made it due
        until(lambda: only_delivery(database).lease_until is None)
        planned = only_delivery(database).next_attempt_at
        assert planned is not None
        wait = planned - last.started_at
        assert delay <= wait <= 1.1 * delay + timedelta(seconds=5)  # jitter, and what the try itself took
        now_due(database)
    tried(sender, database, 2 * len(DELAYS))
    until(lambda: states(database, endpoint) == {"failed": 1})


def test_what_is_due_is_asked_without_claiming(database: Database, tenant: UUID) -> None:
    def due(per_endpoint: int = 4) -> bool:
        return is_due(database, per_endpoint=per_endpoint)

    assert not due()
    add_endpoint(database, tenant, "https://receiver.test/")
    end_jobs(database, tenant, 3)
    assert due()
    assert [each.attempt for each in _deliveries(database)] == [0, 0, 0]
    first = claim(database)
    assert first is not None
    assert due()
    assert not due(per_endpoint=1)  # it has all the places of its endpoint
    record(database, first, Retry(datetime.now(UTC) + timedelta(hours=1)))
    assert not due()  # the endpoint fails: nobody is wedged because half of the senders wait for such
    with database.begin() as session:
        session.execute(update(WebhookEndpoint).values(failing_since=None))
    assert due()
    with database.begin() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=func.now() + timedelta(hours=1)))
    assert not due()
    now_due(database)
    assert due()
    with database.begin() as session:
        session.execute(update(WebhookEndpoint).values(disabled_at=func.now()))
    assert not due()


def _deliveries(database: Database) -> list[WebhookDelivery]:
    with database.begin() as session:
        return list(session.scalars(select(WebhookDelivery)))


def test_410_disables_the_endpoint_and_gives_up_what_waits_for_it(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    sender = WebhookSender(database, Egress(["127.0.0.1"]), VAULT, senders=1)
    gone, _ = add_endpoint(database, tenant, receiver.url("/410"))
    alive, _ = add_endpoint(database, tenant, receiver.url("/200"))
    end_jobs(database, tenant, 5)
    sender.deliver_due()
    until(lambda: states(database, alive) == {"delivered": 5})
    sender.close()
    assert give_up(database) == 4
    assert states(database, gone) == {"failed": 5}
    assert [request.path for request in receiver.received].count("/410") == 1
    end_jobs(database, tenant)
    assert states(database, gone) == {"failed": 5}
    with database.begin() as session:
        endpoint = session.get_one(WebhookEndpoint, gone)
    assert endpoint.disabled_at is not None
    assert endpoint.disabled_reason == "The receiver answered 410 Gone."


def test_what_arrived_is_delivered_although_its_endpoint_was_disabled_meanwhile(
    database: Database, tenant: UUID
) -> None:
    endpoint, _ = add_endpoint(database, tenant, "https://receiver.example")
    end_jobs(database, tenant, 2)
    arrived, refused = claim(database), claim(database)
    assert arrived is not None
    assert refused is not None
    with database.begin() as session:
        assert disable_endpoint(session, endpoint, "Gone.")
        assert not disable_endpoint(session, endpoint, "Again.")
        record_try(session, arrived, Try(datetime.now(UTC), 1, status=200), Delivered())
        record_try(session, refused, Try(datetime.now(UTC), 1, status=500), Retry(datetime.now(UTC)))
    assert give_up(database) == 1
    assert states(database, endpoint) == {"delivered": 1, "failed": 1}
    assert sorted(attempt.status or 0 for attempt in attempts(database)) == [200, 500]
    with database.begin() as session:
        assert session.get_one(WebhookEndpoint, endpoint).disabled_reason == "Gone."


def test_a_try_that_fails_in_a_way_that_nobody_thought_of_is_recorded_and_made_again_as_planned(
    database: Database, tenant: UUID
) -> None:
    def broken(_host: str, _port: int) -> NoReturn:
        raise ValueError("a resolver's bug")

    sender = WebhookSender(database, Egress([], resolver=broken), VAULT)
    add_endpoint(database, tenant, "https://receiver.example")
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    sender.close()
    assert (attempt.attempt, attempt.status, attempt.error) == (1, None, "internal")
    assert only_delivery(database).state == "pending"


def test_many_at_once_that_answer_410_do_not_block_each_other(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    gone, _ = add_endpoint(database, tenant, receiver.url("/410"))
    end_jobs(database, tenant, 12)
    claimed = [one for _ in range(12) if (one := claim(database, per_endpoint=12)) is not None]
    barrier = threading.Barrier(12)

    def record(one: ClaimedDelivery) -> bool:
        barrier.wait()
        with database.begin() as session:
            return record_try(session, one, Try(datetime.now(UTC), 1, status=410), Disable("Gone."))

    with ThreadPoolExecutor(12) as pool:
        disabled = list(pool.map(record, claimed))
    assert disabled.count(True) == 1
    assert states(database, gone) == {"failed": 12}


def test_a_hanging_receiver_holds_its_own_few_senders_only(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    sender = WebhookSender(database, Egress(["127.0.0.1"]), VAULT, senders=6, per_endpoint=4)
    with running_receiver() as hanging:
        hung, _ = add_endpoint(database, tenant, hanging.url("/hang"))
        prompt, _ = add_endpoint(database, tenant, receiver.url("/200"))
        end_jobs(database, tenant, 20)
        sender.deliver_due()
        until(lambda: states(database, prompt) == {"delivered": 20})
        assert states(database, hung) == {"pending": 20}
        assert hanging.most_at_once == 4
        hanging.released.set()
    sender.close()


@pytest.mark.parametrize(
    ("path", "code"), [("/hang", "timeout"), ("/drip-body", "timeout"), ("/close", "bad_response")]
)
def test_a_receiver_without_an_answer_is_logged_with_the_reason(
    database: Database,
    tenant: UUID,
    receiver: Receiver,
    sender: WebhookSender,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    code: str,
) -> None:
    monkeypatch.setattr("worker.webhooks.sender._TRY_SECONDS", 0.5)
    add_endpoint(database, tenant, receiver.url(path))
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    assert (attempt.status, attempt.error, attempt.response_excerpt) == (None, code, None)
    assert only_delivery(database).state == "pending"


HOSTILE = {
    "/hang": "timeout",
    "/deaf": "timeout",
    "/drip-head": "timeout",
    "/drip-body": "timeout",
    "/drip-1xx": "timeout",
    "/close": "bad_response",
    "/garbage": "bad_response",
    "/bad-chunks": "bad_response",
    "/cut-off": "bad_response",
    "/endless-line": "bad_response",
    "/endless-headers": "bad_response",
    "/endless-1xx": "bad_response",
    "/endless-extension": "bad_response",
    "/reset": "connection_lost",
    "/redirect": None,
    "/gigabyte": None,
    "/gzip-bomb": None,
}


def test_hostile_receivers_cost_a_try_each_and_neither_memory_nor_other_endpoints(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.webhooks.sender._TRY_SECONDS", 3.0)
    with running_receiver() as hostile:
        of = {add_endpoint(database, tenant, hostile.url(path))[0]: path for path in HOSTILE}
        prompt, _ = add_endpoint(database, tenant, receiver.url("/200"))
        _gzip_is_packed(hostile)
        end_jobs(database, tenant)
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        begun = time.monotonic()
        deliver_until(sender, lambda: states(database, prompt) == {"delivered": 1}, seconds=3)
        deliver_until(sender, lambda: len(_errors(database, of)) == len(HOSTILE))
        assert time.monotonic() - begun < 6
        assert _errors(database, of) == HOSTILE
        assert _memory("VmHWM") - before < 100_000_000
        hostile.released.set()
        sender.close()


def _gzip_is_packed(hostile: Receiver) -> None:
    """Have the receiver, which lives in this process, make its bomb before memory is measured."""
    Egress(["127.0.0.1"]).post(hostile.url("/gzip-bomb"), b"", {}, 20)


def _memory(kind: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def _errors(database: Database, of: dict[UUID, str]) -> dict[str, str | None]:
    """For each of these endpoints that was tried, the error of its first try."""
    first = select(WebhookDelivery.endpoint_id, WebhookAttempt.error).where(
        WebhookAttempt.delivery_id == WebhookDelivery.id, WebhookAttempt.attempt == 1
    )
    with database.begin() as session:
        return {of[endpoint]: error for endpoint, error in session.execute(first) if endpoint in of}


def test_of_a_gigabyte_in_answer_four_kilobytes_are_kept(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    add_endpoint(database, tenant, receiver.url("/gigabyte"))
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    assert (attempt.status, attempt.response_excerpt) == (200, "x" * 4096)


def test_an_answer_with_nul_bytes_can_be_stored(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    add_endpoint(database, tenant, receiver.url("/nul"))
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    assert attempt.response_excerpt == "a�b�c"


def test_an_inner_receiver_that_is_not_allowed_gets_nothing(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    sender = WebhookSender(database, Egress(["10.0.0.0/8"]), VAULT)
    add_endpoint(database, tenant, receiver.url("/200"))
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    sender.close()
    assert attempt.error == "address_not_allowed"
    assert receiver.received == []


def test_each_webhook_is_sent_once_however_often_and_from_wherever_it_is_asked_for(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    both = [WebhookSender(database, Egress(["127.0.0.1"]), VAULT, senders=8, per_endpoint=8) for _ in range(2)]
    endpoint, _ = add_endpoint(database, tenant, receiver.url("/200"))
    end_jobs(database, tenant, 60)
    with ThreadPoolExecutor(8) as callers:
        for sender in both * 20:
            callers.submit(sender.deliver_due)
    until(lambda: states(database, endpoint) == {"delivered": 60})
    for sender in both:
        sender.close()
    ids = [request.headers["webhook-id"] for request in receiver.received]
    assert len(ids) == len(set(ids)) == 60


def test_two_claims_at_once_do_not_share_the_last_place_of_an_endpoint(database: Database, tenant: UUID) -> None:
    add_endpoint(database, tenant, "https://receiver.test/")
    end_jobs(database, tenant, 30)
    barrier = threading.Barrier(10)

    def claim_together(_: int) -> ClaimedDelivery | None:
        barrier.wait()
        return claim(database, per_endpoint=3)

    with ThreadPoolExecutor(10) as pool:
        claimed = [one for one in pool.map(claim_together, range(10)) if one is not None]
    assert 1 <= len(claimed) <= 3  # who meets another at an endpoint passes it by and does not wait
    claimed += [one for _ in range(3) if (one := claim(database, per_endpoint=3)) is not None]
    assert len({one.id for one in claimed}) == len(claimed) == 3


def test_an_endpoint_with_less_under_way_comes_first_however_long_the_other_waits(
    database: Database, tenant: UUID
) -> None:
    backlog, _ = add_endpoint(database, tenant, "https://backlog.test/")
    end_jobs(database, tenant, 5)
    late, _ = add_endpoint(database, tenant, "https://late.test/")
    end_jobs(database, tenant, 2)
    order = [one.endpoint_id for _ in range(6) if (one := claim(database)) is not None]
    assert order == [backlog, late, backlog, late, backlog, backlog]
    assert claim(database) is None


def test_a_claim_costs_the_same_whatever_waits_for_another_endpoint(database: Database, tenant: UUID) -> None:
    dead, _ = add_endpoint(database, tenant, "https://dead.test/")
    end_jobs(database, tenant, 5)
    for _ in range(4):
        assert claim(database) is not None  # so many tries under way as an endpoint may have, and one that waits
    prompt, _ = add_endpoint(database, tenant, "https://prompt.test/")
    end_jobs(database, tenant, 3)
    few = _blocks_of_a_claim(database, prompt)
    _pile_up(database, dead, 20_000)
    tally.fold(database)  # as the next sweep does
    many = _blocks_of_a_claim(database, prompt)
    assert many <= few + 40, (few, many)  # each index that is asked is a level deeper


@pytest.mark.slow
def test_a_claim_takes_as_long_beside_a_hundred_thousand_that_wait(database: Database, tenant: UUID) -> None:
    """Prints its figures: `pytest -s -m slow tests/services/test_webhook_sender.py`."""
    dead, _ = add_endpoint(database, tenant, "https://dead.test/")
    medians = []
    for pile in (0, 20_000, 80_000):
        for _ in range(pile // 20_000):
            _pile_up(database, dead, 20_000)
        tally.fold(database)
        for number in range(10):
            add_endpoint(database, tenant, f"https://prompt{number}.test/")
        end_jobs(database, tenant, 4)
        seconds: list[float] = []
        while len(seconds) < 40:
            begun = time.perf_counter()
            assert claim(database) is not None
            seconds.append(time.perf_counter() - begun)
        medians.append(statistics.median(seconds))
        sys.stdout.write(f"{pile:>7} more: p50 {medians[-1] * 1e3:.1f} ms, max {max(seconds) * 1e3:.1f} ms\n")
    assert medians[-1] < 3 * medians[0] + 0.005


def _pile_up(database: Database, endpoint: UUID, count: int) -> None:
    """Have so many deliveries wait for an endpoint, due for an hour."""
    with database.begin() as session:
        session.execute(
            text("""
            WITH ended AS (
                INSERT INTO jobs (id, tenant_id, state, deadline_at, finished_at, pictures, metadata, source_key,
                                  source_sha256, source_bytes, media_type)
                SELECT gen_random_uuid(), endpoint.tenant_id, 'failed', now(), now(), '{}', '{}', 'k',
                       's', 1, 'image/png'
                FROM webhook_endpoints AS endpoint, generate_series(1, :count) WHERE endpoint.id = :endpoint
                RETURNING id, tenant_id
            )
            INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, job_id, event_type, body, next_attempt_at)
            SELECT gen_random_uuid(), tenant_id, :endpoint, id, 'job.failed', repeat('x', 500), now() - interval '1 h'
            FROM ended
            """),
            {"endpoint": endpoint, "count": count},
        )


#: The first statement of a claim, and the limits of both.
NEXT_ENDPOINT = statement("shared.webhooks", "next_endpoint")
LIMITS = {"per_endpoint": 4, "per_failing": 1, "proven": [], "per_proven": 0, "looked": 64, "passed": []}


def _blocks_of_a_claim(database: Database, endpoint: UUID) -> int:
    """The blocks of the database that both statements of a claim touch: unlike seconds, no other process moves them."""
    total = 0
    with database.begin() as session:
        turn = session.execute(NEXT_ENDPOINT, LIMITS).one()
        assert str(turn.id) == str(endpoint)
        claim = {"endpoint": endpoint, "lease": LEASE, "at": turn.at, "item": turn.item}
        for sql, values in ((NEXT_ENDPOINT, LIMITS), (statement("shared.webhooks", "claim_delivery"), LIMITS | claim)):
            explain = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
            plan = session.execute(explain, values).scalar_one()[0]["Plan"]
            total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        session.rollback()
    return total


def test_a_claim_that_is_frozen_in_the_middle_stops_its_own_endpoint_alone(database: Database, tenant: UUID) -> None:
    frozen, _ = add_endpoint(database, tenant, "https://frozen.test/")
    end_jobs(database, tenant, 3)
    free, _ = add_endpoint(database, tenant, "https://free.test/")
    end_jobs(database, tenant, 3)
    begun = time.monotonic()
    with database.begin() as session:  # as far as a process may come before it is stopped
        assert str(session.execute(NEXT_ENDPOINT, LIMITS).one().id) == str(frozen)
        claimed = [one.endpoint_id for _ in range(3) if (one := claim(database)) is not None]
        assert claimed == [free] * 3
        assert claim(database) is None
    assert time.monotonic() - begun < 4  # nobody waited for a lock
    again = claim(database)
    assert again is not None
    assert again.endpoint_id == frozen


def test_an_endpoint_that_fails_gets_one_try_at_a_time_until_one_arrives(database: Database, tenant: UUID) -> None:
    add_endpoint(database, tenant, "https://receiver.test/")
    end_jobs(database, tenant, 8)
    first, second = claim(database), claim(database)
    assert first is not None
    assert second is not None
    record(database, first, Retry(datetime.now(UTC) + timedelta(minutes=5)))
    assert claim(database) is None  # the second is under way
    record(database, second, Retry(datetime.now(UTC) + timedelta(minutes=5)))
    alone = claim(database)
    assert alone is not None
    assert alone.failing
    assert claim(database) is None
    record(database, alone, Delivered())
    assert [(one is not None and not one.failing) for one in (claim(database) for _ in range(4))] == [True] * 4


def record(database: Database, claimed: ClaimedDelivery, decision: Delivered | Retry) -> None:
    with database.begin() as session:
        record_try(session, claimed, Try(datetime.now(UTC), 1, status=200), decision)


def test_more_receivers_that_hang_than_there_are_senders_leave_senders_for_the_others(
    database: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.webhooks.sender._TRY_SECONDS", 0.5)
    sender = WebhookSender(database, Egress(["127.0.0.1"]), VAULT, senders=4, per_endpoint=4)
    with running_receiver() as hanging:
        for _ in range(8):
            add_endpoint(database, tenant, hanging.url("/hang"))
        end_jobs(database, tenant, 10)
        deliver_until(sender, lambda: _failing(database) == 8)
        began_before_they_failed = _tries_under_way(database)  # those would count as tries of other endpoints
        until(lambda: not began_before_they_failed & _tries_under_way(database))
        monkeypatch.setattr("worker.webhooks.sender._TRY_SECONDS", 15.0)
        deliver_until(sender, lambda: _under_way(database) == 2)
        prompt, _ = add_endpoint(database, tenant, receiver.url("/200"))
        end_jobs(database, tenant, 10)
        deliver_until(sender, lambda: states(database, prompt) == {"delivered": 10}, seconds=5)
        assert _under_way(database) == 2
        hanging.released.set()
        sender.close()


def _failing(database: Database) -> int:
    with database.begin() as session:
        failing = select(func.count()).where(WebhookEndpoint.failing_since.is_not(None))
        return session.scalars(failing).one()


def _under_way(database: Database) -> int:
    return len(_tries_under_way(database))


def _tries_under_way(database: Database) -> set[tuple[UUID, int]]:
    with database.begin() as session:
        query = select(WebhookDelivery.id, WebhookDelivery.attempt).where(WebhookDelivery.lease_until > func.now())
        return {(delivery, attempt) for delivery, attempt in session.execute(query)}


def test_a_sender_that_lost_its_lease_writes_nothing(database: Database, tenant: UUID) -> None:
    endpoint, _ = add_endpoint(database, tenant, "https://receiver.test/")
    end_jobs(database, tenant)
    slow = claim(database, lease=timedelta(0))
    second = claim(database)
    assert slow is not None
    assert second is not None
    assert (slow.id, slow.attempt, second.attempt) == (second.id, 1, 2)
    with pytest.raises(LeaseLostError), database.begin() as session:
        record_try(session, slow, Try(datetime.now(UTC), 1, status=200), Delivered())
    assert states(database, endpoint) == {"pending": 1}
    assert attempts(database) == []


def test_what_a_dead_sender_had_claimed_is_sent_when_its_lease_ends(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    endpoint, _ = add_endpoint(database, tenant, receiver.url("/200"))
    end_jobs(database, tenant)
    assert claim(database) is not None
    assert claim(database) is None
    with database.begin() as session:
        session.execute(update(WebhookDelivery).values(lease_until=func.now() - timedelta(seconds=1)))
    (attempt,) = tried(sender, database)
    assert attempt.attempt == 2
    assert states(database, endpoint) == {"delivered": 1}


def test_the_next_try_waits_for_as_long_as_the_receiver_asks(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    receiver.retry_after = "1800"
    add_endpoint(database, tenant, receiver.url("/503"))
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    until(lambda: only_delivery(database).next_attempt_at is not None)
    next_try = only_delivery(database).next_attempt_at
    assert next_try is not None
    assert next_try - attempt.started_at >= timedelta(minutes=30)


def test_a_secret_that_cannot_be_read_is_a_failed_try_and_sends_nothing(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    sender = WebhookSender(database, Egress(["127.0.0.1"]), Vault("another secret key for tests, 32 chars"))
    add_endpoint(database, tenant, receiver.url("/200"))
    end_jobs(database, tenant)
    (attempt,) = tried(sender, database)
    sender.close()
    assert attempt.error == "signing_failed"
    assert receiver.received == []


def test_neither_the_log_nor_the_database_shows_a_secret_or_a_path(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    _, secret = add_endpoint(database, tenant, receiver.url("/200?token=abcdef"))
    end_jobs(database, tenant)
    with structlog.testing.capture_logs() as records:
        tried(sender, database)
        until(lambda: any(record["event"] == "webhook_tried" for record in records))
    assert secret.removeprefix("whsec_") not in str(records)
    assert "abcdef" not in str(records)
    with database.begin() as session:
        rows = session.execute(text("SELECT row_to_json(e)::text FROM webhook_endpoints e")).scalars().all()
    assert secret.removeprefix("whsec_") not in str(rows)


def test_close_waits_for_what_is_under_way_and_begins_no_more(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    sender = WebhookSender(database, Egress(["127.0.0.1"]), VAULT, senders=1)
    endpoint, _ = add_endpoint(database, tenant, receiver.url("/hang"))
    end_jobs(database, tenant, 2)
    sender.deliver_due()
    until(lambda: receiver.most_at_once == 1)
    closing = threading.Thread(target=sender.close)
    closing.start()
    receiver.released.set()
    closing.join(10)
    assert len(attempts(database)) == 1
    sender.deliver_due()
    assert len(receiver.received) == 1
    assert states(database, endpoint) == {"pending": 2}


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_jobs_end_while_an_endpoint_with_much_behind_it_is_closed_and_the_rest_follows(
    database: Database, tenant: UUID, how: str
) -> None:
    closing, other = (add_endpoint(database, tenant, f"https://{name}.test/")[0] for name in ("closing", "other"))
    _pile_up(database, closing, 3_000)
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as session:
            session.execute(text("SET LOCAL statement_timeout = '500ms'"))  # a row, and not what lies behind it
            if how == "disabled":
                disable_endpoint(session, closing, "Gone.")
            else:
                assert delete_endpoint(session, tenant, closing)
            pool.submit(end_jobs, database, tenant, 3).result(10)  # before this transaction ends: nobody waits for it
        end_jobs(database, tenant)
    assert states(database, closing) == {"pending": 3_003}
    assert [one.endpoint_id for _ in range(8) if (one := claim(database, per_endpoint=9))] == [other] * 4
    given_up = []
    while number := give_up(database, most=1_000):
        given_up.append(number)
    assert given_up == [1_000, 1_000, 1_000, 3]
    assert states(database, closing) == {"failed": 3_003}
    assert states(database, other) == {"pending": 4}


def test_what_waits_for_an_endpoint_that_is_enabled_again_in_time_is_sent(database: Database, tenant: UUID) -> None:
    endpoint, _ = add_endpoint(database, tenant, "https://receiver.test/")
    end_jobs(database, tenant)
    with database.begin() as session:
        disable_endpoint(session, endpoint, "Gone.")
    assert claim(database) is None
    with database.begin() as session:
        assert enable_endpoint(session, tenant, endpoint) is not None
    assert give_up(database) == 0
    assert claim(database) is not None


def test_a_deleted_endpoint_goes_with_its_deliveries_a_little_at_a_time_and_then_itself(
    database: Database, empty_database: str, tenant: UUID
) -> None:
    gone, kept = (add_endpoint(database, tenant, f"https://{name}.test/")[0] for name in ("gone", "kept"))
    end_jobs(database, tenant, 3)
    _pile_up(database, gone, 1_000)
    with database.begin() as session:
        assert delete_endpoint(session, tenant, gone)
        assert not delete_endpoint(session, tenant, gone)
        assert find_endpoint(session, tenant, gone) is None
    with Database(as_role(empty_database, WORKER_ROLE)) as worker:
        assert [purge(worker, most=600) for _ in range(3)] == [600, 403, 0]
        with database.begin() as session:  # a job that ends at this moment may still write for it
            assert session.get(WebhookEndpoint, gone) is not None
            session.execute(update(WebhookEndpoint).values(deleted_at=WebhookEndpoint.deleted_at - timedelta(hours=1)))
        purge(worker)
    with database.begin() as session:
        assert session.scalars(select(WebhookEndpoint.id)).all() == [kept]
    assert states(database, kept) == {"pending": 3}


def test_what_waits_for_too_long_is_given_up_without_a_try(database: Database, tenant: UUID) -> None:
    """As behind a receiver that hangs, which takes one try at a time."""
    endpoint, _ = add_endpoint(database, tenant, "https://hanging.test/")
    end_jobs(database, tenant, 6)
    tried = claim(database)
    assert tried is not None
    with database.begin() as session:
        old = text("UPDATE webhook_deliveries SET begun_at = now() - :age")
        session.execute(old, {"age": MOST_AGE - timedelta(minutes=1)})
    assert give_up(database) == 0
    with database.begin() as session:
        session.execute(old, {"age": MOST_AGE + timedelta(minutes=1)})
    end_jobs(database, tenant)
    assert give_up(database, most=3) == 3
    assert give_up(database, most=3) == 2
    assert states(database, endpoint) == {"failed": 5, "pending": 2}  # one is young, one is being tried
    with database.begin() as session:
        anew = session.scalars(select(WebhookDelivery).where(WebhookDelivery.state == "failed").limit(1)).one()
        assert resend(session, tenant, anew.id) is not None
    assert give_up(database) == 0  # its age begins anew


def test_an_endpoint_of_which_every_try_failed_for_five_days_is_disabled_and_told_of(
    database: Database, tenant: UUID, receiver: Receiver, sender: WebhookSender
) -> None:
    endpoint, _ = add_endpoint(database, tenant, receiver.url("/500"))
    end_jobs(database, tenant)
    tried(sender, database)
    with database.begin() as session:
        session.execute(update(WebhookEndpoint).values(failing_since=func.now() - timedelta(days=5, seconds=1)))
    now_due(database)
    with structlog.testing.capture_logs() as records:
        tried(sender, database, 2)
        until(lambda: any(record["event"] == "webhook_endpoint_disabled" for record in records))
    (told,) = (record for record in records if record["event"] == "webhook_endpoint_disabled")
    assert (told["endpoint"], told["reason"]) == (str(endpoint), "Every try has failed for 5 days.")
    with database.begin() as session:
        row = session.get_one(WebhookEndpoint, endpoint)
    assert row.disabled_at is not None
    assert row.disabled_reason == "Every try has failed for 5 days."
    assert states(database, endpoint) == {"failed": 1}


def test_a_prompt_receiver_gets_more_than_its_share_where_nobody_else_needs_it(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    sender = WebhookSender(database, Egress(["127.0.0.1"]), VAULT, senders=16, per_endpoint=2)
    endpoint, _ = add_endpoint(database, tenant, receiver.url("/200"))
    end_jobs(database, tenant)
    deliver_until(sender, lambda: states(database, endpoint) == {"delivered": 1})
    with database.begin() as session:  # it goes on to be prompt, and slow enough to be seen
        session.execute(update(WebhookEndpoint).values(url=receiver.url("/hang")))
    end_jobs(database, tenant, 12)
    deliver_until(sender, lambda: receiver.most_at_once == 6)
    assert _under_way(database) == 6  # a quarter of the senders more, and no more than that
    receiver.released.set()
    sender.close()


def test_others_are_served_while_receivers_that_fail_and_those_that_were_prompt_hang(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    sender = WebhookSender(database, Egress(["127.0.0.1"]), VAULT, senders=16, per_endpoint=1)
    prompt = [add_endpoint(database, tenant, receiver.url("/200"))[0] for _ in range(2)]
    end_jobs(database, tenant)
    deliver_until(sender, lambda: all(states(database, each) == {"delivered": 1} for each in prompt))
    failing = [add_endpoint(database, tenant, receiver.url("/hang"))[0] for _ in range(9)]
    with database.begin() as session:
        session.execute(update(WebhookEndpoint).values(url=receiver.url("/hang")))
        fails = update(WebhookEndpoint).where(WebhookEndpoint.id.in_(failing))
        session.execute(fails.values(failing_since=func.now()))
    end_jobs(database, tenant, 12)
    deliver_until(sender, lambda: _under_way(database) == 8 + 2 + 4)
    other, _ = add_endpoint(database, tenant, receiver.url("/200"))
    end_jobs(database, tenant)
    deliver_until(sender, lambda: states(database, other) == {"delivered": 1})
    assert states(database, other) == {"delivered": 1}
    assert _under_way(database) == 8 + 2 + 4  # while all others hang
    receiver.released.set()
    sender.close()


def test_who_was_prompt_and_hangs_has_its_share_and_who_never_was_has_it_too() -> None:
    prompt, first, second = Prompt(), uuid4(), uuid4()
    prompt.note(first, 0.0, arrived=True)
    prompt.note(second, 1.0, arrived=False)
    assert prompt.now(59.0) == [first]
    assert prompt.now(61.0) == []
    prompt.note(first, 70.0, arrived=True)
    prompt.note(first, 71.0, arrived=False)
    assert prompt.now(72.0) == []
