"""Lists of jobs by what they are, and a job that is asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import quote
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.support.api_world import ApiWorld, Tenant


@pytest.fixture
def jobs(api: ApiWorld) -> dict[str, str]:
    """One job of each kind, oldest first, and as many of another tenant; their names are their `client_ref`."""
    made: dict[str, str] = {}
    for visitor, kept in ((api.other, {}), (api.one, made)):
        for name, prediction in (("fake", "FAKE"), ("real", "REAL"), ("unsure", "INCONCLUSIVE")):
            kept[name] = visitor.submit(client_ref=name)
            api.succeed_next(changes={"prediction": prediction})
        kept["failed"] = visitor.submit(client_ref="failed")
        api.fail_next()
        kept["running"] = visitor.submit(client_ref="running")
        api.claim()
        kept["queued"] = visitor.submit(client_ref="queued")
        visitor.post(f"/v1/jobs/{visitor.submit(client_ref='canceled')}/cancel")
        if visitor is api.other:  # nothing of it is to be claimed next
            visitor.post(f"/v1/jobs/{kept['queued']}/cancel")
    return made


def listed(visitor: Tenant, query: str) -> list[str]:
    """The names of the jobs that a query lists, page by page."""

    def pages(path: str | None) -> Iterator[str]:
        while path:
            response = visitor.get(path)
            assert response.status_code == 200, response.text
            yield from (job["client_ref"] for job in response.json["items"])
            path = response.json["links"]["next"]

    names = list(pages(f"/v1/jobs?{query}"))
    assert names == list(pages(f"/v1/jobs?{query}&limit=1"))
    return names


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("prediction=FAKE", ["fake"]),
        ("prediction=INCONCLUSIVE", ["unsure"]),
        ("prediction=FAKE&status=succeeded", ["fake"]),
        ("prediction=FAKE&status=failed", []),
        ("prediction=FAKE&status=failed,succeeded", ["fake"]),
        ("prediction=FAKE&error_code=internal", []),
        ("status=queued", ["queued"]),
        ("status=queued,running", ["queued", "running"]),
        ("status=failed,running,canceled", ["canceled", "running", "failed"]),
        ("status=running,running", ["running"]),
        ("error_code=corrupt_image", ["failed"]),
        ("error_code=corrupt_image&status=failed,canceled", ["failed"]),
        ("error_code=corrupt_image&status=queued", []),
        ("client_ref=real", ["real"]),
        ("client_ref=nothing", []),
        ("client_ref=queued&status=queued", ["queued"]),
        ("client_ref=real&prediction=FAKE", []),
        ("", ["canceled", "queued", "running", "failed", "unsure", "real", "fake"]),
    ],
)
def test_jobs_are_listed_by_what_they_are(api: ApiWorld, jobs: dict[str, str], query: str, names: list[str]) -> None:
    assert listed(api.one, query) == names


def test_jobs_are_listed_by_their_ids(api: ApiWorld, jobs: dict[str, str]) -> None:
    foreign = api.other.get("/v1/jobs").json["items"][0]["id"]
    wanted = [jobs["fake"], jobs["queued"], foreign, str(uuid4()), jobs["real"], jobs["real"].upper()]
    assert listed(api.one, f"ids={','.join(wanted)}") == ["queued", "real", "fake"]
    assert listed(api.one, f"ids={','.join(wanted)}&prediction=FAKE") == ["fake"]
    assert listed(api.one, f"ids={','.join(wanted)}&status=queued,running") == ["queued"]


def test_a_hundred_ids_are_the_most(api: ApiWorld) -> None:
    ids = [str(uuid4()) for _ in range(101)]
    assert api.one.get(f"/v1/jobs?ids={','.join(ids[:100])}").json["items"] == []
    refused = api.one.get(f"/v1/jobs?ids={','.join(ids)}")
    assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "ids")


@pytest.mark.parametrize("status", ["", "&status=queued", "&status=queued,failed"])
def test_jobs_are_listed_by_the_time_of_their_creation(api: ApiWorld, status: str) -> None:
    names = ["first", "second", "third"]
    ids = [api.one.submit(client_ref=name) for name in names]
    moment = datetime.fromisoformat("2026-01-01T12:00:00+00:00")
    with api.around.database.begin() as session:
        for number, job_id in enumerate(ids):
            moved = {"id": job_id, "at": moment + timedelta(hours=number)}
            session.execute(text("UPDATE jobs SET created_at = :at WHERE id = :id"), moved)
        session.execute(text("SELECT count_anew()"))

    def at(hours: float) -> str:
        return quote((moment + timedelta(hours=hours)).isoformat())

    assert listed(api.one, f"created_after={at(0)}{status}") == ["third", "second"]
    assert listed(api.one, f"created_before={at(2)}{status}") == ["second", "first"]
    assert listed(api.one, f"created_after={at(0)}&created_before={at(2)}{status}") == ["second"]
    assert listed(api.one, f"created_after={at(1.5)}&created_before={at(0.5)}{status}") == []
    assert listed(api.one, f"created_before={quote('2026-01-01T14:30:00+02:00')}{status}") == ["first"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=lost", "status"),
        ("status=queued,", "status"),
        ("status=", "status"),
        ("prediction=fake", "prediction"),
        ("client_ref=", "client_ref"),
        ("client_ref=" + "x" * 129, "client_ref"),
        ("ids=", "ids"),
        ("ids=7", "ids"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_before=9999-12-31T23:59:59-23:00", "created_before"),
        ("client=x", "client"),
    ],
)
def test_a_wrong_filter_is_refused_by_its_name(api: ApiWorld, query: str, field: str) -> None:
    refused = api.one.get(f"/v1/jobs?{query}")
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in refused.json["errors"]] == [field]


def test_a_job_that_has_not_changed_is_not_sent_again(api: ApiWorld) -> None:
    path = f"/v1/jobs/{api.one.submit()}"
    seen = set()
    for step in (lambda: None, api.claim):
        step()
        first = api.one.get(path)
        assert first.headers["ETag"].startswith('W/"')
        assert int(first.headers["Retry-After"]) >= 1
        for same in (
            first.headers["ETag"],
            first.headers["ETag"].removeprefix("W/"),
            f'"x", {first.headers["ETag"]}',
            "*",
        ):
            again = api.one.get(path, headers={"If-None-Match": same})
            assert (again.status_code, again.data) == (304, b"")
            assert again.headers["ETag"] == first.headers["ETag"]
        seen.add(first.headers["ETag"])
    assert len(seen) == 2
    api.one.post(f"{path}/cancel")
    ended = api.one.get(path, headers={"If-None-Match": ", ".join(seen)})
    assert (ended.status_code, ended.json["status"]) == (200, "canceled")
    assert "Retry-After" not in ended.headers
