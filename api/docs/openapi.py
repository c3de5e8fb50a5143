"""The OpenAPI 3.1 document: what APIFlask derives from the routes, completed by what it cannot know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from apiflask import APIFlask
from flask import current_app
from pydantic.json_schema import models_json_schema

from api.auth import PUBLIC, needed_scope
from api.docs.examples import EXAMPLES
from api.problems.table import (
    BODY_TOO_LARGE,
    DATABASE_UNAVAILABLE,
    INVALID_FIELD,
    KEY_INVALID,
    KEY_MISSING,
    MALFORMED_REQUEST,
    PROBLEMS,
    RATE_LIMITED,
    SCOPE_MISSING,
)
from api.rate_limits import RATE_HEADERS
from api.v1.responses import headers, json_content, refusals
from api.v1.schemas.base import Document, ProblemDocument
from api.v1.schemas.jobs import IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY, Accepted, Heatmap, Job, JobPage, Link
from api.v1.schemas.keys import CreatedKey, KeyList
from api.v1.schemas.operations import Alive, Readiness, WorkerList
from api.v1.schemas.submission import MOST_CLIENT_REF, MOST_DEADLINE_SECONDS
from api.v1.schemas.usage import Usage
from api.v1.schemas.webhooks import (
    CreatedEndpoint,
    Delivery,
    DeliveryPage,
    Endpoint,
    EndpointList,
    EndpointMessage,
    Recovered,
    WebhookBody,
)
from api.v1.submission_form import IMAGE, METADATA_BYTES
from shared.domain import (
    DECLARATIONS,
    ENDPOINT_TEST,
    EVENT_TYPES,
    JOB_EVENTS,
    PICTURES,
    POLICY_NAME,
    PROBE_PASSES,
    SOURCE,
)

#: Every document that the OpenAPI document names.
DOCUMENTS: tuple[type[Document], ...] = (
    Accepted,
    Alive,
    CreatedEndpoint,
    CreatedKey,
    Delivery,
    DeliveryPage,
    Endpoint,
    EndpointList,
    EndpointMessage,
    Heatmap,
    Job,
    JobPage,
    KeyList,
    Link,
    ProblemDocument,
    Recovered,
    WebhookBody,
    Readiness,
    Usage,
    WorkerList,
)

_IDEMPOTENCY_PARAMETER = {
    "in": "header",
    "name": IDEMPOTENCY_HEADER,
    "description": "A name of your choice for this submission, such as a UUID. Sent again under it, the same image "
    "with the same options is the same job; another image or other options are refused. Kept as long as the job.",
    "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY}$"},
}

DESCRIPTION = """\
Tells whether an image was made by a diffusion model. Submit an image, then poll its job or receive a signed webhook.

A verdict is statistical evidence, not proof.
"""
TAGS = [
    {"name": "Jobs", "description": "Submit images and read their verdicts."},
    {"name": "Artifacts", "description": "The pictures that explain a verdict, and the upload."},
    {"name": "Webhooks", "description": "Be told how jobs end (Standard Webhooks 1.0)."},
    {"name": "Keys", "description": "Keys that may do less, that end, and that take the place of others."},
    {"name": "Operator", "description": "What concerns all tenants, or none: for an operator's key."},
    {"name": "Service", "description": "How the service itself is; no key is needed."},
]
_SECURITY = "ApiKey"
_ID = {"type": "string", "format": "uuid"}


def register(app: APIFlask) -> None:
    """Describe `app` in its OpenAPI document."""
    app.config["AUTO_VALIDATION_ERROR_RESPONSE"] = False  # ours are problem documents
    app.config["AUTO_404_RESPONSE"] = False
    app.config["AUTO_200_RESPONSE"] = False
    app.config["AUTO_OPERATION_ID"] = True
    app.description = DESCRIPTION
    app.tags = TAGS
    app.security_schemes = {
        _SECURITY: {"type": "http", "scheme": "bearer", "description": "A key made by `distildire keys create`: `dd_…`"}
    }
    app.servers = [{"url": "/"}]
    app.spec_processor(_complete)


def _complete(found: dict[str, Any] | str) -> dict[str, Any]:
    spec = cast("dict[str, Any]", found)  # a string only where YAML is asked for
    _, schemas = models_json_schema(
        [(model, "validation") for model in DOCUMENTS], ref_template="#/components/schemas/{model}"
    )
    for model, example in EXAMPLES.items():
        schemas["$defs"][model.__name__]["examples"] = [example]
    spec["components"].setdefault("schemas", {}).update(schemas["$defs"])
    spec["security"] = [{_SECURITY: []}]
    spec["x-problems"] = [{**vars(problem), "type": problem.type} for problem in PROBLEMS]
    spec["webhooks"] = {name: {"post": _webhook(name)} for name in (*EVENT_TYPES, ENDPOINT_TEST)}
    spec["paths"] = dict(sorted(spec["paths"].items()))
    for path in spec["paths"].values():
        for operation in path.values():
            _complete_operation(operation)
    submit = spec["paths"]["/v1/jobs"]["post"]
    submit["requestBody"] = _submission()
    for making in (submit, spec["paths"]["/v1/jobs/{job_id}/replay"]["post"]):
        making["parameters"].append(_IDEMPOTENCY_PARAMETER)
    return spec


def _complete_operation(operation: dict[str, Any]) -> None:
    for parameter in operation["parameters"]:
        _plain(parameter)
    responses = operation["responses"]
    endpoint = operation["operationId"].partition("_")[2]
    if endpoint in _PUBLIC_IDS:
        operation["security"] = []
        return
    views = {name.replace(".", "_"): view for name, view in current_app.view_functions.items()}
    operation["security"] = [{_SECURITY: [needed_scope(views[endpoint])]}]
    common = refusals(KEY_MISSING, KEY_INVALID, SCOPE_MISSING, RATE_LIMITED, DATABASE_UNAVAILABLE)
    if "requestBody" in operation:
        operation["requestBody"]["required"] = True
        common |= refusals(MALFORMED_REQUEST, BODY_TOO_LARGE)
    if "requestBody" in operation or any(parameter["in"] == "query" for parameter in operation["parameters"]):
        common |= refusals(INVALID_FIELD)
    for status, response in common.items():
        known = responses.setdefault(str(status), response)
        if known is not response:
            known["description"] += f" {response['description']}"
    for response in responses.values():
        response.setdefault("headers", {}).update(headers(*RATE_HEADERS))


_PUBLIC_IDS = {endpoint.replace(".", "_") for endpoint in PUBLIC}


def _plain(parameter: dict[str, Any]) -> None:
    """Correct a parameter's schema: an optional one is never null, which a URL cannot state; ids in paths are UUIDs."""
    schema = parameter["schema"]
    if parameter["in"] == "path":
        schema = _ID if parameter["name"].endswith("_id") else {"type": "string", "enum": [*PICTURES, SOURCE]}
    if "anyOf" in schema:
        kept = next(choice for choice in schema["anyOf"] if choice != {"type": "null"})
        schema = kept | {"description": schema.get("description", "")}
    if "description" in schema:
        parameter["description"] = schema["description"]
    if schema.get("deprecated"):
        parameter["deprecated"] = True
    hidden = ("description", "title", "deprecated", *(["default"] if schema.get("default", 0) is None else []))
    parameter["schema"] = {name: value for name, value in schema.items() if name not in hidden}


def _submission() -> dict[str, Any]:
    boolean = {"type": "string", "enum": ["true", "false", "1", "0"]}
    properties: Mapping[str, Any] = {
        IMAGE: {
            "type": "string",
            "format": "binary",
            "description": "The file: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.",
        },
        "model": {"type": "string", "description": "The model's name, to be sure of it."},
        "policy": {
            "type": "string",
            "pattern": POLICY_NAME,
            "description": "By which policy to call the verdict; yours by default, else the model's own threshold.",
        },
        "stability": {
            **boolean,
            "default": "false",
            "description": f"Classify small changes of the image too; it costs {PROBE_PASSES} passes, not one.",
        },
        "pictures": {
            "type": "string",
            "default": "all",
            "description": "Which pictures to make: `all`, `none`, `flagged` (all, unless the verdict is REAL), or "
            f"some of {', '.join(PICTURES)}, separated by commas.",
        },
        **{
            name: {**boolean, "default": "true", "description": "Whether to make this picture, without `pictures`."}
            for name in PICTURES
        },
        "client_ref": {
            "type": "string",
            "minLength": 1,
            "maxLength": MOST_CLIENT_REF,
            "description": "Your own id of the image: visible characters, returned with the job. `GET /v1/jobs` can "
            "find it.",
        },
        "declared": {
            "type": "string",
            "enum": [*DECLARATIONS],
            "description": "What the uploader says of the image; returned with the job.",
        },
        "deadline_seconds": {
            "type": "string",
            "pattern": "^[0-9]{1,6}$",
            "description": f"Seconds after which the job expires if it has not ended; at most {MOST_DEADLINE_SECONDS}.",
        },
        "metadata": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": f"A JSON object of at most {METADATA_BYTES} bytes, given back with the job.",
        },
    }
    schema = {"type": "object", "required": [IMAGE], "properties": properties, "additionalProperties": False}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _webhook(event_type: str) -> dict[str, Any]:
    """Describe the webhook of one event type (Standard Webhooks 1.0)."""
    texts = {
        "webhook-id": "The same for every try: take one that you have seen already for a repetition.",
        "webhook-timestamp": "Seconds since 1970, of this try.",
        "webhook-signature": "One or more signatures with spaces between them: `v1,` and the base64 of an "
        "HMAC-SHA256, or `v1a,` and that of an Ed25519 signature.",
    }
    of_job = event_type in JOB_EVENTS
    return {
        "operationId": f"webhook_{event_type.replace('.', '_')}",
        "tags": ["Webhooks"],
        "summary": f"{'A job ended' if of_job else 'Of a webhook endpoint'}: `{event_type}`.",
        "security": [],
        "parameters": [
            {"in": "header", "name": name, "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in texts.items()
        ],
        "requestBody": {"required": True, "content": json_content(WebhookBody if of_job else EndpointMessage)},
        "responses": {"2XX": {"description": "It was received. Any other answer is tried again."}},
    }
