"""What a tenant used: exact sums by day and key, which outlive the jobs, and the quota of device seconds."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from shared.jobs import sweeping
from shared.tenants import usage
from tests.support.api_world import ApiWorld, Tenant, png

IMAGE = png()
TODAY = datetime.now(UTC).date()


def used(tenant: Tenant, query: str = "") -> list[dict[str, Any]]:
    response = tenant.get(f"/v1/usage{query}")
    assert response.status_code == 200, response.text
    return list(response.json["items"])


def totals(items: list[dict[str, Any]]) -> Mapping[str, float]:
    return {name: sum(item[name] for item in items) for name in ("jobs", "bytes", "device_seconds")}


def set_quota(api: ApiWorld, tenant: str, device_seconds: int | None) -> None:
    with api.around.database.begin() as session:
        session.execute(
            text("UPDATE tenants SET max_daily_device_seconds = :most WHERE name = :name"),
            {"most": device_seconds, "name": tenant},
        )


def move_to(api: ApiWorld, days_ago: int) -> None:
    """Have everything that was used so far be of an earlier day."""
    with api.around.database.begin() as session:
        for table in ("usage_entries", "usage_days"):
            session.execute(text(f"UPDATE {table} SET day = day - CAST(:days AS int)"), {"days": days_ago})


def test_each_ended_job_counts_once_however_it_ended(api: ApiWorld) -> None:
    for _ in range(4):
        api.one.submit(IMAGE)
    assert used(api.one) == []  # a job counts when it ends
    api.succeed_next(changes={"device_seconds": 0.5})
    api.fail_next()
    canceled = api.one.submit(IMAGE)
    assert api.one.post(f"/v1/jobs/{canceled}/cancel").status_code == 200
    assert api.one.post(f"/v1/jobs/{canceled}/cancel").status_code == 200
    with api.around.database.begin() as session:
        session.execute(text("UPDATE jobs SET deadline_at = now() - interval '1 s' WHERE state = 'queued'"))
    assert sweeping.sweep(api.around.database, max_attempts=3)
    [item] = used(api.one)
    assert item["day"] == TODAY.isoformat()
    assert (item["jobs"], item["bytes"], item["device_seconds"]) == (5, 5 * len(IMAGE), 0.5)


def test_the_result_says_how_long_the_device_worked_for_it(api: ApiWorld) -> None:
    api.one.submit(IMAGE)
    job = api.succeed_next(changes={"device_seconds": 0.5})
    assert api.one.get(f"/v1/jobs/{job}").json["result"]["device_seconds"] == 0.5


def test_usage_is_told_by_key(api: ApiWorld) -> None:
    made = api.one.post("/v1/keys", json={"name": "second"}).json
    second = Tenant(api.app, made["key"])
    second.submit(IMAGE)
    api.succeed_next()
    for _ in range(2):
        api.one.submit(IMAGE)
        api.succeed_next()
    by_key = {item["key_id"]: item["jobs"] for item in used(api.one)}
    assert by_key.pop(made["id"]) == 1
    assert [*by_key.values()] == [2]


def test_another_tenants_usage_is_not_shown(api: ApiWorld) -> None:
    api.one.submit(IMAGE)
    api.succeed_next()
    assert used(api.other) == []


@pytest.mark.parametrize("between", [0, 1, 2])
def test_sums_are_the_same_before_and_after_they_are_folded(api: ApiWorld, between: int) -> None:
    for number in range(3):
        api.one.submit(IMAGE)
        api.succeed_next(changes={"device_seconds": 0.25})
        if number == between:
            assert usage.fold(api.around.database) == number + 1
    expected = {"jobs": 3, "bytes": 3 * len(IMAGE), "device_seconds": 0.75}
    assert totals(used(api.one)) == expected
    assert usage.fold(api.around.database) == 2 - between
    assert usage.fold(api.around.database) == 0
    assert totals(used(api.one)) == expected
    assert len(used(api.one)) == 1


def test_processes_that_fold_at_once_count_nothing_twice(api: ApiWorld) -> None:
    for _ in range(12):
        api.one.submit(IMAGE)
        api.succeed_next()
    with ThreadPoolExecutor(4) as pool:
        folded = list(pool.map(lambda _: usage.fold(api.around.database, most=2), range(12)))
    folded.append(usage.fold(api.around.database))
    assert sum(folded) == 12
    assert totals(used(api.one))["jobs"] == 12


def test_usage_outlives_the_jobs(api: ApiWorld) -> None:
    api.one.submit(IMAGE)
    assert api.one.delete(f"/v1/jobs/{api.succeed_next()}").status_code == 204
    assert totals(used(api.one))["jobs"] == 1


def test_days_are_chosen_and_both_ends_belong_to_them(api: ApiWorld) -> None:
    for days_until_the_next in (10, 10, 0):
        api.one.submit(IMAGE)
        api.succeed_next()
        usage.fold(api.around.database)
        move_to(api, days_until_the_next)
    first, second, third = days = [(TODAY - timedelta(days=ago)).isoformat() for ago in (20, 10, 0)]
    assert [item["day"] for item in used(api.one)] == days
    assert [item["day"] for item in used(api.one, f"?from={first}&to={second}")] == [first, second]
    assert [item["day"] for item in used(api.one, f"?from={second}")] == [second, third]
    assert [item["day"] for item in used(api.one, f"?to={second}")] == [first, second]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?from=yesterday", "from"),
        ("?from=1700000000", "from"),
        ("?to=2026-02-30", "to"),
        ("?to=0001-01-01", "to"),
        ("?from=2026-03-02&to=2026-03-01", "from"),
        ("?from=2024-01-01&to=2026-01-01", "from"),
        ("?since=2026-01-01", "since"),
    ],
)
def test_a_wrong_day_is_refused_by_name(api: ApiWorld, query: str, field: str) -> None:
    response = api.one.get(f"/v1/usage{query}")
    assert (response.status_code, response.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in response.json["errors"]] == [field]


def test_who_has_used_up_its_device_seconds_waits_for_the_next_day(api: ApiWorld) -> None:
    set_quota(api, "one", 2)
    for _ in range(2):
        api.one.submit(IMAGE)
        api.succeed_next(changes={"device_seconds": 1.0})
    refused = api.one.post_form(IMAGE)
    assert (refused.status_code, refused.json["code"]) == (429, "quota_exceeded")
    assert 0 < int(refused.headers["Retry-After"]) <= 24 * 3600
    api.other.submit(IMAGE)  # another tenant's quota is its own
    move_to(api, 1)
    api.one.submit(IMAGE)


def test_a_submission_that_is_sent_again_passes_although_the_quota_is_used_up(api: ApiWorld) -> None:
    headers = {"Idempotency-Key": "once"}
    form = api.one.post_form
    set_quota(api, "one", 1)
    api.one.headers |= headers
    first = form(IMAGE).json["id"]
    api.succeed_next(changes={"device_seconds": 1.0})
    assert form(IMAGE).json["id"] == first
