"""A second tenant gets 404 for everything of the first, on every route that names a thing of a tenant's.

Each test runs twice: as the API is deployed, and as the tables' owner. Row-level security does not stop the owner, so
there the filters of the statements hold alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from apiflask import APIFlask
from sqlalchemy import text

from api.auth import PUBLIC
from api.v1.webhooks import MOST_ENDPOINTS
from shared.database.engine import Database
from shared.database.tables import Base
from shared.domain import PICTURES, SOURCE
from tests.support.api_world import ApiWorld, Tenant, png

#: Routes that name nothing: each has a test below that they show only the caller's own.
LISTS = {"jobs.index", "deliveries.log", "endpoints.index", "keys.index", "usage.index"}
#: Routes that make something, and so name nothing that exists.
MAKERS = {"jobs.submit", "endpoints.create", "keys.create"}
#: Routes of the operator, with their paths: no tenant's key opens them.
OPERATORS = {"workers.index": "/v1/workers"}


@dataclass(frozen=True)
class Things:
    """What the first tenant owns."""

    job_id: str
    endpoint_id: str
    delivery_id: str
    key_id: str


#: For each route that names something: the requests that try it, with the owner's ids.
PROBES: dict[str, Callable[[Things], list[tuple[str, str]]]] = {
    "jobs.show": lambda own: [
        ("GET", f"/v1/jobs/{own.job_id}"),
        ("GET", f"/v1/jobs/{own.job_id}?include=heatmap_scores"),
    ],
    "jobs.cancel": lambda own: [("POST", f"/v1/jobs/{own.job_id}/cancel")],
    "artifacts.artifact": lambda own: [
        ("GET", f"/v1/jobs/{own.job_id}/artifacts/{name}{query}")
        for name in (*PICTURES, SOURCE)
        for query in ("", "?link=1")
    ],
    "artifacts.link": lambda own: [
        ("GET", f"/v1/jobs/{own.job_id}/artifacts/{name}/link") for name in (*PICTURES, SOURCE)
    ],
    "artifacts.heatmap_picture": lambda own: [("GET", f"/v1/jobs/{own.job_id}/heatmap.png")],
    "artifacts.heatmap": lambda own: [
        ("GET", f"/v1/jobs/{own.job_id}/heatmap{query}") for query in ("", "?format=png")
    ],
    "endpoints.show": lambda own: [("GET", f"/v1/webhook-endpoints/{own.endpoint_id}")],
    "deliveries.show_delivery": lambda own: [("GET", f"/v1/webhook-deliveries/{own.delivery_id}")],
    "endpoints.enable": lambda own: [("POST", f"/v1/webhook-endpoints/{own.endpoint_id}/enable")],
    "deliveries.send_anew": lambda own: [("POST", f"/v1/webhook-deliveries/{own.delivery_id}/resend")],
    "jobs.replay": lambda own: [("POST", f"/v1/jobs/{own.job_id}/replay")],
    "jobs.delete": lambda own: [("DELETE", f"/v1/jobs/{own.job_id}")],
    "keys.rotate": lambda own: [("POST", f"/v1/keys/{own.key_id}/rotate")],
    "endpoints.change": lambda own: [("PATCH", f"/v1/webhook-endpoints/{own.endpoint_id}")],
    "endpoints.rotate": lambda own: [("POST", f"/v1/webhook-endpoints/{own.endpoint_id}/rotate-secret")],
    "endpoints.test": lambda own: [("POST", f"/v1/webhook-endpoints/{own.endpoint_id}/test")],
    "endpoints.recover": lambda own: [("POST", f"/v1/webhook-endpoints/{own.endpoint_id}/recover")],
    "keys.revoke": lambda own: [("DELETE", f"/v1/keys/{own.key_id}")],
    "endpoints.delete": lambda own: [("DELETE", f"/v1/webhook-endpoints/{own.endpoint_id}")],
}


@pytest.fixture(params=["the API's role", "the owner"])
def api(request: pytest.FixtureRequest, api_app: APIFlask, owner_app: APIFlask, api_database: Database) -> ApiWorld:
    return ApiWorld(owner_app if request.param == "the owner" else api_app, api_database)


@pytest.fixture
def own(api: ApiWorld) -> Things:
    endpoint_id = api.one.add_endpoint()["id"]
    api.one.submit()
    job_id = api.succeed_next()
    delivery_id = api.one.get("/v1/webhook-deliveries").json["items"][0]["id"]
    key_id = api.one.post("/v1/keys", json={"name": "another"}).json["id"]
    return Things(job_id, endpoint_id, delivery_id, key_id)


def test_no_route_is_forgotten(api: ApiWorld) -> None:
    endpoints = {rule.endpoint for rule in api.app.url_map.iter_rules()}
    assert endpoints == {*PROBES, *LISTS, *MAKERS, *OPERATORS, *PUBLIC}
    naming = {rule.endpoint for rule in api.app.url_map.iter_rules() if rule.arguments} - PUBLIC
    assert naming == set(PROBES)


@pytest.mark.parametrize("endpoint", sorted(PROBES))
def test_what_belongs_to_another_tenant_is_like_what_does_not_exist(api: ApiWorld, own: Things, endpoint: str) -> None:
    nothing = Things(*(str(uuid4()) for _ in range(4)))
    before = _all_rows(api)
    for (method, path), (_, unknown) in zip(PROBES[endpoint](own), PROBES[endpoint](nothing), strict=True):
        foreign, missing = (api.other.open(which, method, **_body(method, path)) for which in (path, unknown))
        assert foreign.status_code == missing.status_code == 404, path
        told, of_nothing = dict(foreign.json), dict(missing.json)
        assert told.pop("request_id") != of_nothing.pop("request_id")
        assert told == of_nothing
        assert _plain(foreign.headers) == _plain(missing.headers)
    assert _all_rows(api) == before
    for method, path in PROBES[endpoint](own):  # and the same requests are right when the owner makes them
        assert api.one.open(path, method, **_body(method, path)).status_code in (200, 201, 202, 204, 409), path


@pytest.mark.parametrize("path", OPERATORS.values())
def test_what_is_the_operators_needs_an_operators_key(api: ApiWorld, path: str) -> None:
    refused = api.one.get(path)
    assert (refused.status_code, refused.json["code"]) == (403, "operator_only")
    assert api.operator.get(path).status_code == 200


def test_lists_and_their_filters_show_only_the_callers_own(api: ApiWorld, own: Things) -> None:
    for path in (
        "/v1/jobs",
        "/v1/jobs?status=succeeded",
        "/v1/usage",
        "/v1/webhook-endpoints",
        "/v1/webhook-deliveries",
        f"/v1/webhook-deliveries?endpoint_id={own.endpoint_id}",
        f"/v1/webhook-deliveries?job_id={own.job_id}",
    ):
        assert api.other.get(path).json["items"] == [], path
        assert len(api.one.get(path).json["items"]) == 1, path


def test_a_cursor_of_another_tenant_leads_to_the_callers_own(api: ApiWorld) -> None:
    mine = []
    for _ in range(2):
        mine.append(api.other.submit())
        api.one.submit()
    following = urlsplit(api.one.get("/v1/jobs?limit=1").json["links"]["next"])
    (cursor,) = parse_qs(following.query)["cursor"]  # points at the newest of all
    assert _listed(api.other, f"/v1/jobs?cursor={cursor}") == [*reversed(mine)]


def test_one_key_for_a_submission_names_a_job_of_each_tenant(api: ApiWorld) -> None:
    for visitor in (api.one, api.other):
        visitor.headers["Idempotency-Key"] = "upload-7"
    first = api.one.submit()
    second = api.other.submit()
    assert first != second
    assert (api.one.submit(), api.other.submit()) == (first, second)  # each one's own, when it comes again
    assert api.other.post_form(png(9, 9)).json["code"] == "idempotency_key_reused"


def test_a_full_tenant_is_refused_before_its_body_is_read_though_another_has_its_key(api: ApiWorld) -> None:
    api.one.headers["Idempotency-Key"] = "upload-7"
    api.one.submit()
    _limit(api, "other", 1)
    api.other.submit()
    headers = {"Idempotency-Key": "upload-7", "Content-Type": "multipart/form-data; boundary=b"}
    refused = api.other.post("/v1/jobs", data=b"no form at all", headers=headers)
    assert (refused.status_code, refused.json["code"]) == (429, "too_many_open_jobs")


def test_open_jobs_of_another_tenant_take_no_place(api: ApiWorld) -> None:
    for _ in range(2):
        api.one.submit()
    api.claim()  # one of them runs, the other waits
    _limit(api, "other", 1)
    api.other.submit()
    refused = api.other.post_form(png())
    assert (refused.status_code, refused.json["code"]) == (429, "too_many_open_jobs")
    assert refused.json["detail"].startswith("1 job")


def test_the_pace_of_another_tenants_jobs_tells_nobody_when_to_come_back(api: ApiWorld) -> None:
    for _ in range(4):
        api.one.submit()
        api.fail_next()
    for name, visitor in (("one", api.one), ("other", api.other)):
        _limit(api, name, 1)
        visitor.submit()
    refused = [visitor.post_form(png()).headers["Retry-After"] for visitor in (api.one, api.other)]
    assert refused == ["15", "60"]  # four jobs in the last minute, and none


def test_endpoints_of_another_tenant_take_no_place(api: ApiWorld) -> None:
    for _ in range(MOST_ENDPOINTS):
        api.one.add_endpoint()
    assert api.one.post("/v1/webhook-endpoints", json={"url": "https://a.example/"}).status_code == 409
    assert _listed(api.other, "/v1/webhook-endpoints") == []
    made = api.other.add_endpoint()
    assert _listed(api.other, "/v1/webhook-endpoints") == [made["id"]]


def test_a_job_tells_its_tenants_endpoints_alone(api: ApiWorld) -> None:
    mine = api.one.add_endpoint()["id"]
    api.other.add_endpoint()
    api.one.submit()
    api.fail_next()
    told = api.one.get("/v1/webhook-deliveries").json["items"]
    assert [delivery["endpoint_id"] for delivery in told] == [mine]
    assert _listed(api.other, "/v1/webhook-deliveries") == []


@pytest.mark.parametrize("endpoint", sorted({*PROBES, *LISTS, *MAKERS, *OPERATORS}))
def test_every_route_needs_a_key_unless_it_is_listed_as_public(api: ApiWorld, own: Things, endpoint: str) -> None:
    for rule in api.app.url_map.iter_rules(endpoint):
        path = rule.rule.split("<")[0] if endpoint not in PROBES else PROBES[endpoint](own)[0][1]
        for method in rule.methods or ():
            assert api.anonymous.open(path, method).status_code == 401, (method, path)


def _plain(headers: object) -> set[tuple[str, str]]:
    return {(name, value) for name, value in dict(headers).items() if name not in {"X-Request-ID", "RateLimit"}}  # type: ignore[call-overload]


def _listed(visitor: Tenant, path: str) -> list[str]:
    return [item["id"] for item in visitor.get(path).json["items"]]


def _limit(api: ApiWorld, tenant: str, most: int) -> None:
    """Give a tenant a limit of its own for open jobs."""
    with api.around.database.begin() as session:
        session.execute(
            text("UPDATE tenants SET max_open_jobs = :most WHERE name = :name"), {"most": most, "name": tenant}
        )


def _body(method: str, path: str) -> dict[str, Any]:
    """The least that a request of this kind may send."""
    if path.endswith("/recover"):
        return {"json": {"since": "2026-01-01T00:00:00Z"}}
    return {"json": {}} if method in ("POST", "PATCH") else {}


def _all_rows(api: ApiWorld) -> dict[str, list[str]]:
    """Every row of every table, as the owner reads them, but for when a key was last used."""
    with api.around.database.begin() as session:
        return {
            table: sorted(session.scalars(text(f"SELECT (to_jsonb(row) - 'last_used_at')::text FROM {table} AS row")))
            for table in Base.metadata.tables
        }
