"""`distildire tenants` and `distildire jobs`, against the servers that the environment names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy.cli import main
from shared.errors import ErrorCode
from tests.support.api_world import ApiWorld

Distildire = Callable[..., Result]


@pytest.fixture
def distildire(api: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> Distildire:
    """The command as the operator calls it, who owns the database."""
    settings = api.around.settings
    for name in ("redis_url", "secret_key", "s3_access_key", "s3_secret_key"):
        monkeypatch.setenv(f"DISTILDIRE_{name.upper()}", getattr(settings, name).get_secret_value())
    for name in ("s3_endpoint", "s3_bucket"):
        monkeypatch.setenv(f"DISTILDIRE_{name.upper()}", getattr(settings, name))
    owner_url = api.around.database.engine.url.set(drivername="postgresql")
    monkeypatch.setenv("DISTILDIRE_DATABASE_URL", owner_url.render_as_string(hide_password=False))

    def call(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(main, arguments, env=environment)

    return call


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_tenants_get_limits_of_their_own_and_lose_them_again(api: ApiWorld, distildire: Distildire) -> None:
    api.one.submit()
    assert distildire("tenants", "set", "one", "--max-open-jobs", "2", "--retention-days", "30").exit_code == 0
    one, other = sorted(rows(distildire("tenants", "list", "--json")), key=lambda row: len(row["name"]))
    assert (one["open_jobs"], one["max_open_jobs"], one["retention_days"]) == (1, 2, 30)
    assert (other["open_jobs"], other["max_open_jobs"], other["retention_days"]) == (0, None, None)
    assert distildire("tenants", "set", "one", "--max-open-jobs", "default").exit_code == 0
    one = min(rows(distildire("tenants", "list", "--json")), key=lambda row: len(row["name"]))
    assert (one["max_open_jobs"], one["retention_days"]) == (None, 30)


def test_a_tenant_gets_a_policy_and_is_warned_of_one_that_the_workers_lack(
    api: ApiWorld, distildire: Distildire
) -> None:
    def told() -> object:
        return {row["name"]: row["policy"] for row in rows(distildire("tenants", "list", "--json"))}["one"]

    def said(policy: str) -> str:
        return " ".join(distildire("tenants", "set", "one", "--policy", policy).output.split())

    assert said("strict") == "Set for one. No worker is there to say whether there is a policy 'strict'."
    assert told() == "strict"
    with api.working(policies=["lax"]):
        assert said("strict") == "Set for one. No worker has the policy 'strict': its jobs fail until one does."
        assert said("lax") == "Set for one."
    assert said("default") == "Set for one."
    assert told() is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nobody", "--max-open-jobs", "2"], 1),
        (["one"], 2),
        (["one", "--max-open-jobs", "0"], 2),
        (["one", "--policy", "not a name"], 2),
    ],
)
def test_what_cannot_be_set_is_said(distildire: Distildire, arguments: list[str], code: int) -> None:
    assert distildire("tenants", "set", *arguments).exit_code == code


def test_dead_jobs_of_all_tenants_are_listed_until_they_are_replayed(api: ApiWorld, distildire: Distildire) -> None:
    dead = set()
    for tenant in (api.one, api.other):
        tenant.submit()
        dead.add(api.fail_next(ErrorCode.ATTEMPTS_EXHAUSTED))
    api.one.submit()
    api.fail_next(ErrorCode.CORRUPT_IMAGE)
    listed = rows(distildire("jobs", "list", "--dead", "--json"))
    assert {row["id"] for row in listed} == dead
    assert {row["tenant"] for row in listed} == {"one", "other"}
    replayed = distildire("jobs", "replay", "--all-dead")
    assert replayed.exit_code == 0, replayed.output
    new = {*replayed.stdout.split()}
    assert len(new) == 2
    assert {row["id"] for row in rows(distildire("jobs", "list", "--json"))} == new
    assert rows(distildire("jobs", "list", "--dead", "--json")) == []
    assert {api.succeed_next(), api.succeed_next()} == new


def test_a_replay_that_is_not_possible_is_said_and_the_limit_holds(api: ApiWorld, distildire: Distildire) -> None:
    running = api.one.submit()
    api.claim()
    refused = distildire("jobs", "replay", running)
    assert refused.exit_code == 1
    assert "it is running" in refused.stderr
    api.other.submit()
    dead = api.fail_next(ErrorCode.INTERNAL)
    api.other.submit()
    full = distildire("jobs", "replay", dead, DISTILDIRE_MAX_OPEN_JOBS_PER_TENANT="1")
    assert full.exit_code == 1
    assert "The tenant has as many open jobs" in full.stderr
    assert len(api.other.get("/v1/jobs").json["items"]) == 2
