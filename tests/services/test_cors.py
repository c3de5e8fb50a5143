"""Pages of other origins that call the API from a browser: those on the list may, all others may not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.api_world import Answer, ApiWorld

OURS, ANOTHER, STRANGE = "https://dashboard.example", "http://localhost:5173", "https://dashboard.example.evil.example"


@pytest.fixture
def world(api_with: Callable[..., ApiWorld]) -> ApiWorld:
    return api_with(cors_origins=(OURS, ANOTHER))


def preflight(world: ApiWorld, origin: str, path: str = "/v1/jobs", method: str = "POST") -> Answer:
    """Ask as a browser does before a page's request with a key and a JSON body."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    return world.anonymous.open(path, "OPTIONS", headers=headers)


def words(answer: Answer, header: str) -> set[str]:
    return {word.strip().lower() for word in answer.headers[header].split(",")}


@pytest.mark.parametrize("origin", [OURS, ANOTHER])
def test_a_page_of_the_list_may_ask_without_a_key(world: ApiWorld, origin: str) -> None:
    answer = preflight(world, origin)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "post" in words(answer, "Access-Control-Allow-Methods")
    assert words(answer, "Access-Control-Allow-Headers") >= {"authorization", "content-type", "idempotency-key"}
    assert int(answer.headers["Access-Control-Max-Age"]) > 0
    assert "Origin" in answer.vary
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_page_of_the_list_reads_answers_and_their_headers(world: ApiWorld) -> None:
    answers = [
        world.one.get("/v1/jobs", headers={"Origin": OURS}),
        world.one.get("/v1/nothing-here", headers={"Origin": OURS}),
        world.anonymous.get("/v1/jobs", headers={"Origin": OURS}),  # else the page could not tell why it was refused
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 401]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == OURS
        assert words(answer, "Access-Control-Expose-Headers") >= {
            "location",
            "retry-after",
            "ratelimit",
            "x-request-id",
        }
        assert "Origin" in answer.vary


@pytest.mark.parametrize(
    "origin", [STRANGE, "null", "https://DASHBOARD.example", f"{OURS}:444", "http://dashboard.example"]
)
def test_a_page_of_another_origin_may_not(world: ApiWorld, origin: str) -> None:
    asked, told = preflight(world, origin), world.one.get("/v1/jobs", headers={"Origin": origin})
    assert asked.status_code == 401
    for answer in (asked, told):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
        assert "Origin" in answer.vary


def test_nobody_may_unless_the_operator_says_so(api: ApiWorld) -> None:
    for answer in (preflight(api, OURS), api.one.get("/v1/jobs", headers={"Origin": OURS})):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
        assert "Origin" not in answer.vary


def test_only_what_is_below_v1_may_be_called(world: ApiWorld) -> None:
    for path in ("/metrics", "/docs", "/openapi.json", "/readyz"):
        for answer in (preflight(world, OURS, path, "GET"), world.anonymous.get(path, headers={"Origin": OURS})):
            assert "Access-Control-Allow-Origin" not in answer.headers, path
