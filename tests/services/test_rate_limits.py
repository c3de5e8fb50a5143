"""How many requests a key may make: what every answer says of it, what is refused, and what a dead Redis changes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from api.rate_limits import RateLimiter
from tests.support.api_world import Answer, ApiWorld, png
from tests.support.redis_server import RedisServer

#: What one request may wait for a Redis that is away, once that is known; and what a busy machine may add.
PROMPT = 0.05


def left(answer: Answer) -> int:
    """How many requests the answer says are left."""
    found = re.fullmatch(r'"default";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert found is not None
    assert 0 <= int(found[2]) <= 60
    return int(found[1])


def test_every_answer_to_a_valid_key_says_what_is_left(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(rate_limit=10)
    job = world.one.submit()
    answers = [
        world.one.get(f"/v1/jobs/{job}"),
        world.one.get("/v1/jobs?nonsense=1"),
        world.one.get(f"/v1/jobs/{uuid4()}"),
        world.one.get("/v1/nothing-here"),
        world.one.get("/v1/workers"),
        world.one.post_form(None),
        world.one.get(f"/v1/jobs/{job}/artifacts/source"),
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 404, 404, 403, 422, 200]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"default";q=10;w=60'}
    assert [left(answer) for answer in answers] == [8, 7, 6, 5, 4, 3, 2]


def test_nobody_without_a_valid_key_is_told_of_limits(api: ApiWorld) -> None:
    answers = [api.anonymous.get("/v1/jobs"), api.anonymous.get("/healthz"), api.anonymous.get("/openapi.json")]
    answers.append(api.anonymous.get("/v1/jobs", headers={"Authorization": "Bearer dd_nobodys"}))
    assert not [name for answer in answers for name, _ in answer.headers if name.startswith("RateLimit")]


def test_one_request_too_many_is_refused_and_does_nothing(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(rate_limit=2)
    for _ in range(2):
        world.one.submit()
    refused = world.one.post_form(png())
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert "2 requests a minute" in refused.json["detail"]
    assert left(refused) == 0
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    with world.around.database.begin() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM jobs").scalar() == 2
    assert world.other.get("/v1/jobs").status_code == 200  # another key has its own


def test_all_processes_count_together(api_with: Callable[..., ApiWorld]) -> None:
    first, second = api_with(rate_limit=3), api_with(rate_limit=3)
    key = {"Authorization": f"Bearer {second.one.key}"}
    statuses = [
        world.anonymous.get("/v1/jobs", headers=key).status_code for world in (first, second, first, second, first)
    ]
    assert statuses == [200, 200, 200, 429, 429]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.stop()


def test_while_redis_is_gone_requests_pass_and_limits_come_back_with_it(
    api_with: Callable[..., ApiWorld], redis: RedisServer
) -> None:
    world = api_with(redis_url=SecretStr(redis.url), rate_limit=1)
    assert [world.one.get("/v1/jobs").status_code for _ in range(2)] == [200, 429]
    redis.stop()
    away = [world.one.get("/v1/jobs") for _ in range(5)]
    assert [answer.status_code for answer in away] == [200] * 5
    assert {left(answer) for answer in away} == {1}
    redis.start()
    deadline = time.monotonic() + 30
    while world.one.get("/v1/jobs").status_code != 429:
        assert time.monotonic() < deadline


def test_a_frozen_redis_holds_up_the_first_request_alone(redis: RedisServer) -> None:
    limiter = RateLimiter(redis.url, 1_000)
    limiter.count(uuid4())
    with redis.frozen():
        limiter.count(uuid4())
        began = time.perf_counter()
        for _ in range(100):
            assert not limiter.count(uuid4()).refused
        assert time.perf_counter() - began < 100 * PROMPT
