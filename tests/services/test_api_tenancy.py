"""A second tenant gets 404 for everything of the first, on every route that names a thing of a tenant's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from api.auth import PUBLIC
from shared.jobs import PICTURES, SOURCE
from tests.api_world import ApiWorld

#: Routes that name nothing: each has a test below that they show only the caller's own.
LISTS = {"jobs.index", "deliveries.log", "endpoints.index"}
#: Routes that make something, and so name nothing that exists.
MAKERS = {"jobs.submit", "endpoints.create"}
#: Routes of the operator, with their paths: no tenant's key opens them.
OPERATORS = {"workers.index": "/v1/workers"}


@dataclass(frozen=True)
class Things:
    """What the first tenant owns."""

    job_id: str
    endpoint_id: str
    delivery_id: str


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
    "artifacts.heatmap": lambda own: [
        ("GET", f"/v1/jobs/{own.job_id}/heatmap{query}") for query in ("", "?format=png")
    ],
    "endpoints.show": lambda own: [("GET", f"/v1/webhook-endpoints/{own.endpoint_id}")],
    "deliveries.show_delivery": lambda own: [("GET", f"/v1/webhook-deliveries/{own.delivery_id}")],
    "endpoints.enable": lambda own: [("POST", f"/v1/webhook-endpoints/{own.endpoint_id}/enable")],
    "deliveries.send_anew": lambda own: [("POST", f"/v1/webhook-deliveries/{own.delivery_id}/resend")],
    "jobs.replay": lambda own: [("POST", f"/v1/jobs/{own.job_id}/replay")],
    "jobs.delete": lambda own: [("DELETE", f"/v1/jobs/{own.job_id}")],
    "endpoints.delete": lambda own: [("DELETE", f"/v1/webhook-endpoints/{own.endpoint_id}")],
}


@pytest.fixture
def own(api: ApiWorld) -> Things:
    endpoint_id = api.one.add_endpoint()["id"]
    api.one.submit()
    job_id = api.succeed_next()
    delivery_id = api.one.get("/v1/webhook-deliveries").json["items"][0]["id"]
    return Things(job_id, endpoint_id, delivery_id)


def test_no_route_is_forgotten(api: ApiWorld) -> None:
    endpoints = {rule.endpoint for rule in api.app.url_map.iter_rules()}
    assert endpoints == {*PROBES, *LISTS, *MAKERS, *OPERATORS, *PUBLIC}
    naming = {rule.endpoint for rule in api.app.url_map.iter_rules() if rule.arguments} - PUBLIC
    assert naming == set(PROBES)


@pytest.mark.parametrize("endpoint", sorted(PROBES))
def test_what_belongs_to_another_tenant_is_like_what_does_not_exist(api: ApiWorld, own: Things, endpoint: str) -> None:
    nothing = Things(*(str(uuid4()) for _ in range(3)))
    for (method, path), (_, unknown) in zip(PROBES[endpoint](own), PROBES[endpoint](nothing), strict=True):
        foreign, missing = api.other.open(path, method), api.other.open(unknown, method)
        assert foreign.status_code == missing.status_code == 404, path
        told, of_nothing = dict(foreign.json), dict(missing.json)
        assert told.pop("request_id") != of_nothing.pop("request_id")
        assert told == of_nothing
        assert _plain(foreign.headers) == _plain(missing.headers)
    for method, path in PROBES[endpoint](own):  # and the same requests are right when the owner makes them
        assert api.one.open(path, method).status_code in (200, 204, 409), path


@pytest.mark.parametrize("path", OPERATORS.values())
def test_what_is_the_operators_needs_an_operators_key(api: ApiWorld, path: str) -> None:
    refused = api.one.get(path)
    assert (refused.status_code, refused.json["code"]) == (403, "operator_only")
    assert api.operator.get(path).status_code == 200


def test_lists_and_their_filters_show_only_the_callers_own(api: ApiWorld, own: Things) -> None:
    for path in (
        "/v1/jobs",
        "/v1/jobs?status=succeeded",
        "/v1/webhook-endpoints",
        "/v1/webhook-deliveries",
        f"/v1/webhook-deliveries?endpoint_id={own.endpoint_id}",
        f"/v1/webhook-deliveries?job_id={own.job_id}",
    ):
        assert api.other.get(path).json["items"] == [], path
        assert len(api.one.get(path).json["items"]) == 1, path


def test_a_cursor_of_another_tenant_leads_to_the_callers_own(api: ApiWorld) -> None:
    for _ in range(2):
        api.other.submit()
        api.one.submit()
    cursor = api.one.get("/v1/jobs?limit=1").json["links"]["next"].partition("?")[2]
    mine = {job["id"] for job in api.other.get("/v1/jobs").json["items"]}
    assert {job["id"] for job in api.other.get(f"/v1/jobs?{cursor}").json["items"]} <= mine


@pytest.mark.parametrize("endpoint", sorted({*PROBES, *LISTS, *MAKERS, *OPERATORS}))
def test_every_route_needs_a_key_unless_it_is_listed_as_public(api: ApiWorld, own: Things, endpoint: str) -> None:
    for rule in api.app.url_map.iter_rules(endpoint):
        path = rule.rule.split("<")[0] if endpoint not in PROBES else PROBES[endpoint](own)[0][1]
        for method in rule.methods or ():
            assert api.anonymous.open(path, method).status_code == 401, (method, path)


def _plain(headers: object) -> set[tuple[str, str]]:
    return {(name, value) for name, value in dict(headers).items() if name != "X-Request-ID"}  # type: ignore[call-overload]
