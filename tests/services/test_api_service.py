"""What every answer carries, and the routes that need no key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

import api as api_package
from api.problems.table import PROBLEMS
from shared.jobs import retention, tally
from tests.support.api_world import ApiWorld, png

STATIC = Path(api_package.__file__).parent / "docs/static"


@pytest.mark.parametrize("path", ["/v1/jobs", "/healthz", "/docs", "/docs/static/docs.js", "/nothing", "/v1/nothing"])
def test_every_answer_has_an_id_and_safe_headers(api: ApiWorld, path: str) -> None:
    response = api.one.get(path, headers={"X-Request-ID": "forged"})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert response.headers["Referrer-Policy"] == "no-referrer"
    if response.status_code >= 400:
        assert response.json["request_id"] == response.headers["X-Request-ID"]


def test_a_refusal_is_a_problem_document_that_the_documentation_explains(api: ApiWorld) -> None:
    response = api.one.open("/v1/jobs", "PATCH")
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]
    assert response.mimetype == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "remedy", "request_id"} == set(response.json)
    explained = {problem["type"]: problem for problem in api.one.get("/openapi.json").json["x-problems"]}
    assert explained[response.json["type"]]["code"] == "method_not_allowed"
    assert set(explained) == {problem.type for problem in PROBLEMS}


def test_an_unexpected_error_tells_nothing_of_the_inside(api: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("password=hunter2")

    monkeypatch.setattr("api.v1.jobs.list_jobs", broken)
    response = api.one.get("/v1/jobs")
    assert (response.status_code, response.json["code"]) == (500, "internal")
    assert "hunter2" not in response.text


def test_the_log_holds_no_key_no_query_and_no_file_name(api: ApiWorld) -> None:
    with structlog.testing.capture_logs() as lines:
        api.one.post_form(png(), metadata='{"who": "a-private-word"}')
        api.one.get("/v1/jobs?cursor=a-secret-cursor")
    written = json.dumps(lines, default=str)
    assert [(line["method"], line["route"], line["status"]) for line in lines if line["event"] == "request"] == [
        ("POST", "/v1/jobs", 202),
        ("GET", "/v1/jobs", 422),
    ]
    for secret in (api.one.key, "a-private-word", "a-secret-cursor", "holiday"):
        assert secret not in written


def test_the_openapi_document_is_valid_and_describes_every_route(api: ApiWorld) -> None:
    document = api.anonymous.get("/openapi.json").json
    validate(document)
    assert document["openapi"].startswith("3.1")
    described = {
        (re.sub(r"{\w+}", "{}", path), method.upper()) for path, item in document["paths"].items() for method in item
    }
    routes = {
        (re.sub(r"<[^>]+>", "{}", rule.rule), method)
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    undescribed = {"/openapi.json", "/docs", "/docs/static/{}", "/metrics"}
    assert described == {(path, method) for path, method in routes if path not in undescribed}


def test_every_operation_promises_its_refusals(api: ApiWorld) -> None:
    document = api.anonymous.get("/openapi.json").json
    assert document["paths"].keys() >= {"/v1/jobs", "/healthz"}
    for path, item in document["paths"].items():
        for operation in item.values():
            if path.startswith("/v1/"):
                assert {"401", "503"} <= set(operation["responses"]), path
                assert [*operation["security"][0]] == ["ApiKey"]
            else:
                assert operation["security"] == []


def test_a_replay_promises_each_of_its_refusals(api: ApiWorld) -> None:
    responses = api.anonymous.get("/openapi.json").json["paths"]["/v1/jobs/{job_id}/replay"]["post"]["responses"]
    for status, codes in {"422": ("unknown_model", "unknown_policy"), "503": ("service_overloaded",)}.items():
        for code in codes:
            assert f"`{code}`" in responses[status]["description"]


def test_the_documentation_needs_nothing_from_elsewhere(api: ApiWorld) -> None:
    page = api.anonymous.get("/docs", buffered=True)
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert "<script>" not in page.text
    assert "style=" not in page.text
    used = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert used
    for path in used:
        assert path.startswith("/")
        assert not path.startswith("//")
        assert api.anonymous.get(path, buffered=True).status_code == 200, path
    files = list(STATIC.iterdir())
    assert {file.name for file in files} >= {"docs.js", "docs.css"}
    for file in files:
        addresses = set(re.findall(r"https?://[\w.]+", file.read_text()))
        assert addresses <= {"http://www.w3.org", "https://example.com"}, file  # a name of SVG's, and an example


def test_ready_names_each_server(api: ApiWorld) -> None:
    response = api.anonymous.get("/readyz")
    assert response.status_code == 200
    assert response.json["status"] == "ready"
    assert {name: check["state"] for name, check in response.json["checks"].items()} == {
        "database": "up",
        "object_store": "up",
        "redis": "up",
    }


def test_metrics_count_work_and_requests_but_name_no_tenant(api: ApiWorld) -> None:
    queued = api.one.submit()
    api.one.submit()
    api.fail_next()
    api.one.get(f"/v1/jobs/{queued}")
    response = api.anonymous.get("/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples[("distildire_jobs", "queued")] == 1
    assert samples[("distildire_jobs_ended_recently", "failed")] == 1
    assert samples[("distildire_jobs_ended_recently", "succeeded")] == 0
    assert samples[("distildire_jobs", "running")] == 0
    assert samples[("distildire_oldest_queued_job_seconds",)] > 0
    assert samples[("distildire_webhook_deliveries_due",)] == 0
    assert samples[("distildire_database_up",)] == 1
    assert samples[("distildire_http_request_seconds_count", "/v1/jobs/<uuid:job_id>", "200", "GET")] >= 1
    assert queued not in response.text


def test_metrics_tell_what_housekeeping_has_before_it(api_with: Callable[..., ApiWorld]) -> None:
    world = api_with(retention_days=7)
    for _ in range(3):
        world.one.submit()
        world.fail_next()
    with world.around.database.begin() as session:
        session.execute(text("UPDATE jobs SET finished_at = now() - interval '8 days'"))
        session.execute(text("DELETE FROM erasures"))
    assert retention.delete_old(world.around.database, days=7, most=1) == 1
    told = world.anonymous.get("/metrics").text
    assert 'distildire_housekeeping_backlog{what="jobs"} 2.0' in told
    assert 'distildire_housekeeping_backlog{what="erasures"} 1.0' in told


def test_metrics_forget_what_ended_long_ago(api: ApiWorld) -> None:
    api.one.submit()
    api.fail_next()
    tally.fold(api.around.database)
    assert 'distildire_jobs_ended_recently{state="failed"} 1.0' in api.anonymous.get("/metrics").text
    with api.around.database.begin() as session:  # the last fold was a while ago
        session.execute(text("UPDATE tally_folds SET at = at - interval '6 minutes'"))
    api.one.submit()
    api.fail_next()
    api.one.submit()
    api.succeed_next()
    told = api.anonymous.get("/metrics").text
    assert 'distildire_jobs_ended_recently{state="failed"} 1.0' in told
    assert 'distildire_jobs_ended_recently{state="succeeded"} 1.0' in told


def test_a_client_cannot_invent_series(api: ApiWorld) -> None:
    for path in ("/v1/one", "/two", "/v1/jobs/three"):
        api.one.open(path, "BREW")
    shown = api.anonymous.get("/metrics").text
    assert "three" not in shown
    assert "BREW" not in shown
    assert 'route="unknown"' in shown
