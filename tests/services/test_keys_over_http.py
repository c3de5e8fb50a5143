"""A tenant's keys over HTTP: what each may do, when it ends, who may make it, and what its owner learns of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from api.app import create_app
from api.auth import PUBLIC, needed_scope
from shared.settings import Settings
from shared.tenants.api_keys import Scope
from shared.tenants.key_format import could_be_key
from tests.support.api_world import Answer, ApiWorld, Tenant

ALL = [scope.value for scope in Scope]
#: For each scope a request that needs it, and what it answers who has it.
CALLS = {
    "submit": ("POST", "/v1/jobs", 415),
    "read": ("GET", "/v1/jobs", 200),
    "webhooks": ("GET", "/v1/webhook-endpoints", 200),
    "admin": ("GET", "/v1/keys", 200),
}


@pytest.fixture
def admin(api: ApiWorld) -> Tenant:
    """The first tenant, with a key that may do everything."""
    return api.one


def make(maker: Tenant, **body: Any) -> Answer:
    return maker.post("/v1/keys", json={"name": "dashboard", **body})


def as_key(api: ApiWorld, key: str) -> Tenant:
    return Tenant(api.app, key)


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


def test_every_route_names_the_scope_that_it_needs(api_settings: Settings) -> None:
    app = create_app(api_settings)
    guarded = {name for name in app.view_functions if name not in PUBLIC}
    assert {needed_scope(app.view_functions[name]) for name in guarded} == {Scope(name) for name in CALLS}
    assert len(guarded) >= 20


@pytest.mark.parametrize("scope", CALLS)
def test_a_key_does_what_its_scopes_say_and_nothing_else(api: ApiWorld, admin: Tenant, scope: str) -> None:
    key = as_key(api, make(admin, scopes=[scope]).json["key"])
    for needed, (method, path, status) in CALLS.items():
        answer = key.open(path, method)
        if needed == scope:
            assert answer.status_code == status
        else:
            assert (answer.status_code, answer.json["code"]) == (403, "scope_missing")
            assert f"`{needed}`" in answer.json["detail"]


def test_a_key_is_shown_once_and_has_a_checksum(api: ApiWorld, admin: Tenant) -> None:
    made = make(admin)
    assert made.status_code == 201
    key = made.json["key"]
    assert re.fullmatch(r"dd_[0-9A-Za-z]{49}", key)
    assert could_be_key(key)
    assert not could_be_key(key[:20] + ("a" if key[20] != "a" else "b") + key[21:])
    document = {name: value for name, value in made.json.items() if name != "key"}
    assert document["prefix"] == key[:9]
    assert document["scopes"] == ["submit", "read", "webhooks", "review"]
    assert made.headers["Location"] == f"/v1/keys/{document['id']}"
    listed = admin.get("/v1/keys")
    assert document in listed.json["items"]
    assert listed.json["links"] == {"self": "/v1/keys", "next": None}
    assert key not in listed.text


def test_a_key_makes_none_that_may_do_more(api: ApiWorld, admin: Tenant) -> None:
    lesser = as_key(api, make(admin, scopes=["read", "admin"], expires_at=in_days(2)).json["key"])
    assert make(lesser, scopes=["read"]).status_code == 201
    refused = make(lesser, scopes=["read", "submit"])
    assert (refused.status_code, refused.json["code"]) == (403, "scope_missing")
    for end in (in_days(3), in_days(-1)):
        refused = make(lesser, scopes=["read"], expires_at=end)
        assert (refused.status_code, refused.json["errors"][0]["field"]) == (422, "expires_at")
    other = make(admin, scopes=["submit"]).json["id"]
    refused = lesser.post(f"/v1/keys/{other}/rotate", json={})
    assert (refused.status_code, refused.json["code"]) == (403, "scope_missing")


@pytest.mark.parametrize("end", ["3363-09-13T19:36:55.532+19:55", "2999-01-01T00:00:00-23:59"])
def test_an_end_may_have_any_offset(admin: Tenant, end: str) -> None:
    made = make(admin, expires_at=end)
    assert made.status_code == 201, made.text
    assert datetime.fromisoformat(made.json["expires_at"]) == datetime.fromisoformat(end)


@pytest.mark.parametrize(
    "end", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2999-01-01T00:00:00", "soon"]
)
def test_an_end_that_is_no_moment_is_refused(admin: Tenant, end: str) -> None:
    refused = make(admin, expires_at=end)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_field")
    assert [error["field"] for error in refused.json["errors"]] == ["expires_at"]


def test_a_key_ends_with_the_key_that_made_it(api: ApiWorld, admin: Tenant) -> None:
    first = make(admin, scopes=ALL, expires_at=in_days(1)).json
    second = make(as_key(api, first["key"])).json
    assert second["expires_at"] == first["expires_at"]


def test_a_key_past_its_end_is_refused(api: ApiWorld, admin: Tenant) -> None:
    made = make(admin, expires_at=in_days(1)).json
    key = as_key(api, made["key"])
    assert key.get("/v1/jobs").status_code == 200
    with api.around.database.begin() as session:
        session.execute(text("UPDATE api_keys SET expires_at = now() WHERE id = :id"), {"id": made["id"]})
    refused = key.get("/v1/jobs")
    assert (refused.status_code, refused.json["code"]) == (401, "key_invalid")


def test_a_revoked_key_is_refused_and_no_longer_listed(api: ApiWorld, admin: Tenant) -> None:
    made = make(admin).json
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert as_key(api, made["key"]).get("/v1/jobs").status_code == 401
    assert made["id"] not in [item["id"] for item in admin.get("/v1/keys").json["items"]]
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 404


@pytest.mark.parametrize("overlap", [0, 3600])
def test_a_rotated_key_works_until_the_overlap_is_over(api: ApiWorld, admin: Tenant, overlap: int) -> None:
    old = make(admin, scopes=["read"], expires_at=in_days(9)).json
    rotated = admin.post(f"/v1/keys/{old['id']}/rotate", json={"overlap_seconds": overlap})
    assert rotated.status_code == 201
    new = rotated.json
    assert {name: new[name] for name in ("name", "scopes", "expires_at")} == {
        name: old[name] for name in ("name", "scopes", "expires_at")
    }
    assert as_key(api, new["key"]).get("/v1/jobs").status_code == 200
    assert as_key(api, old["key"]).get("/v1/jobs").status_code == (200 if overlap else 401)
    ends = {item["id"]: item["expires_at"] for item in admin.get("/v1/keys").json["items"]}
    left = datetime.fromisoformat(ends[old["id"]]) - datetime.now(UTC)
    assert timedelta(seconds=overlap - 60) <= left <= timedelta(seconds=overlap)


def test_the_last_use_is_told(api: ApiWorld, admin: Tenant) -> None:
    made = make(admin).json
    assert made["last_used_at"] is None
    began = datetime.now(UTC)
    as_key(api, made["key"]).get("/v1/jobs")
    used = {item["id"]: item["last_used_at"] for item in admin.get("/v1/keys").json["items"]}[made["id"]]
    assert abs(datetime.fromisoformat(used) - began) < timedelta(minutes=1)


def test_another_tenants_keys_are_not_there(api: ApiWorld, admin: Tenant) -> None:
    theirs = api.other
    made = make(theirs).json
    assert made["id"] not in [item["id"] for item in admin.get("/v1/keys").json["items"]]
    assert admin.delete(f"/v1/keys/{made['id']}").status_code == 404
    assert admin.post(f"/v1/keys/{made['id']}/rotate", json={}).status_code == 404
    assert as_key(api, made["key"]).get("/v1/jobs").status_code == 200


def test_no_operators_key_comes_over_http(api: ApiWorld) -> None:
    operator = api.tenant("operator", operator=True, scopes=list(Scope))
    made = make(operator, scopes=ALL).json
    assert as_key(api, made["key"]).get("/v1/workers").json["code"] == "operator_only"
    own = next(item for item in operator.get("/v1/keys").json["items"] if item["id"] != made["id"])
    assert operator.post(f"/v1/keys/{own['id']}/rotate", json={}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": []}, {"scopes": ["everything"]}, {"scopes": "read"}, {"name": ""}, {"name": "a\nb"},
        {"name": "x" * 101},
        {"expires_at": "tomorrow"}, {"expires_at": "2027-01-01T00:00:00"}, {"operator": True}, {"key": "dd_mine"},
    ],
)  # fmt: skip
def test_a_body_that_is_wrong_is_refused(admin: Tenant, body: dict[str, Any]) -> None:
    refused = make(admin, **body)
    assert refused.status_code == 422
    assert refused.json["errors"]


def test_there_is_a_most_number_of_keys(api: ApiWorld, admin: Tenant) -> None:
    with api.around.database.begin() as session:
        session.execute(
            text(
                "INSERT INTO api_keys (id, tenant_id, name, hash, hint) SELECT gen_random_uuid(), id, 'k',"
                " sha256(n::text::bytea), 'xxxx' FROM tenants, generate_series(1, 99) AS n WHERE tenants.name = 'one'"
            )
        )
    refused = make(admin)
    assert (refused.status_code, refused.json["code"]) == (409, "too_many_keys")
