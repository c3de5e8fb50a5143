"""The API against its own OpenAPI document: generated requests, right and wrong, get the answers it promises.

Whatever is sent: never a 5xx, only documented statuses and content types, and bodies of the documented form.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api_world import ApiWorld

OPERATIONS = 19
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def _ids(api: ApiWorld) -> dict[str, str]:
    """Make one of each thing, so that generated requests reach further than 404."""
    endpoint_id = api.one.add_endpoint()["id"]
    api.one.submit()
    job_id = api.succeed_next()
    api.one.submit()
    return {
        "job_id": job_id,
        "endpoint_id": endpoint_id,
        "delivery_id": api.one.get("/v1/webhook-deliveries").json["items"][0]["id"],
    }


def _run(api: ApiWorld, cases: int) -> int:
    """Send `cases` generated requests, spread over the operations and both modes; return how many were sent."""
    schema = schemathesis.openapi.from_wsgi("/openapi.json", api.app)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == OPERATIONS
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    generated = st.one_of([operation.as_strategy(mode) for operation in operations for mode in modes])
    known, sent = _ids(api), 0

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=generated, use_known=st.booleans())
    def send(case: Case[Any], use_known: bool) -> None:
        nonlocal sent
        sent += 1
        if use_known:
            case.path_parameters = {**(case.path_parameters or {}), **_known(case, known)}
        case.call_and_validate(headers=api.one.headers, checks=CHECKS)

    send()
    return sent


def _known(case: Case[Any], known: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in known.items() if f"{{{name}}}" in case.path}


def test_generated_requests_get_documented_answers(api: ApiWorld) -> None:
    assert _run(api, 100) >= 100


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_generated_requests_get_documented_answers(api: ApiWorld) -> None:
    assert _run(api, 1000) >= 1000
