"""Webhooks over HTTP: a tenant's endpoints and the log of their deliveries."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from typing import Any
from uuid import UUID

from apiflask import APIBlueprint
from sqlalchemy.orm import Session

from api.auth import caller, needs
from api.dependencies import resources
from api.problems.table import (
    DELIVERY_PENDING,
    ENDPOINT_DISABLED,
    NOT_FOUND,
    TOO_MANY_ENDPOINTS,
    URL_NOT_ALLOWED,
    ApiError,
    field_error,
    or_not_found,
)
from api.v1.pages import present_page
from api.v1.responses import NO_CONTENT, answer, refusals
from api.v1.schemas.webhooks import (
    CreatedEndpoint,
    DeliveriesQuery,
    Delivery,
    DeliveryPage,
    Endpoint,
    EndpointChanges,
    EndpointList,
    NewEndpoint,
    Recovered,
    Recovery,
    SecretRotation,
)
from shared.database.tables import WebhookAttempt, WebhookEndpoint
from shared.egress.url_policy import AllowList, EgressRefused, admit, parse, require_https
from shared.presenter import present_endpoint, timestamp
from shared.tenants.api_keys import Scope
from shared.webhooks import deliveries
from shared.webhooks.deliveries import DeliveryPendingError, EndpointDisabledError, resend
from shared.webhooks.endpoints import (
    change_endpoint,
    count_endpoints,
    create_endpoint,
    delete_endpoint,
    enable_endpoint,
    find_endpoint,
    list_endpoints,
    rotate_secret,
)
from shared.webhooks.outbox import write_test
from shared.webhooks.queries import DeliveryRow, find_delivery, list_deliveries

endpoints_blueprint = APIBlueprint("endpoints", __name__, url_prefix="/v1/webhook-endpoints")
deliveries_blueprint = APIBlueprint("deliveries", __name__, url_prefix="/v1/webhook-deliveries")

MOST_ENDPOINTS = 20
_LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))


@endpoints_blueprint.post("")
@endpoints_blueprint.input(NewEndpoint, location="json", arg_name="new")
@endpoints_blueprint.doc(
    tags=["Webhooks"],
    responses=answer(CreatedEndpoint, "The endpoint, with its secret: the only time it is shown.", 201, "Location")
    | refusals(TOO_MANY_ENDPOINTS, URL_NOT_ALLOWED),
)
@needs(Scope.WEBHOOKS)
def create(new: NewEndpoint) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Add a webhook endpoint.

    Only what is plain from the URL is checked now. Where it leads is checked again at each delivery.
    """
    _check_url(new.url, resources().egress_allow)
    with resources().database.begin() as session:
        if count_endpoints(session, caller().tenant_id) >= MOST_ENDPOINTS:
            raise ApiError(TOO_MANY_ENDPOINTS, f"There are {MOST_ENDPOINTS} already.")
        endpoint, secret = create_endpoint(
            session,
            resources().vault,
            caller().tenant_id,
            new.url,
            new.event_types,
            predictions=new.predictions,
            description=new.description,
            ed25519=new.signature == "ed25519",
        )
    document = present_endpoint(endpoint) | {"secret": secret}
    return document, 201, {"Location": f"/v1/webhook-endpoints/{endpoint.id}"}


@endpoints_blueprint.get("")
@endpoints_blueprint.doc(tags=["Webhooks"], responses=answer(EndpointList, "All of them."))
@needs(Scope.WEBHOOKS)
def index() -> dict[str, Any]:
    """List your webhook endpoints, oldest first."""
    with resources().database.begin() as session:
        return {"items": [present_endpoint(found) for found in list_endpoints(session, caller().tenant_id)]}


@endpoints_blueprint.get("/<uuid:endpoint_id>")
@endpoints_blueprint.doc(tags=["Webhooks"], responses=answer(Endpoint, "The endpoint.") | refusals(NOT_FOUND))
@needs(Scope.WEBHOOKS)
def show(endpoint_id: UUID) -> dict[str, Any]:
    """Show a webhook endpoint."""
    with resources().database.begin() as session:
        return present_endpoint(or_not_found(find_endpoint(session, caller().tenant_id, endpoint_id)))


@endpoints_blueprint.patch("/<uuid:endpoint_id>")
@endpoints_blueprint.input(EndpointChanges, location="json", arg_name="wanted")
@endpoints_blueprint.doc(
    tags=["Webhooks"],
    responses=answer(Endpoint, "The endpoint, as it is from now on.") | refusals(NOT_FOUND, URL_NOT_ALLOWED),
)
@needs(Scope.WEBHOOKS)
def change(endpoint_id: UUID, wanted: EndpointChanges) -> dict[str, Any]:
    """Change the fields of a webhook endpoint that the body names; the others stay.

    Deliveries that wait are sent to the new URL. Jobs that end from now on are told by the new filters.
    """
    changes = wanted.model_dump(exclude_unset=True)
    if "url" in changes:
        _check_url(changes["url"], resources().egress_allow)
    with resources().database.begin() as session:
        return present_endpoint(or_not_found(change_endpoint(session, caller().tenant_id, endpoint_id, changes)))


@endpoints_blueprint.post("/<uuid:endpoint_id>/rotate-secret")
@endpoints_blueprint.input(SecretRotation, location="json", arg_name="rotation")
@endpoints_blueprint.doc(
    tags=["Webhooks"],
    responses=answer(CreatedEndpoint, "The endpoint, with its new secret: the only time it is shown.")
    | refusals(NOT_FOUND),
)
@needs(Scope.WEBHOOKS)
def rotate(endpoint_id: UUID, rotation: SecretRotation) -> dict[str, Any]:
    """Give a webhook endpoint a new secret, or a new key pair.

    Until the overlap is over, each message has two signatures, one of the old secret and one of the new, so that the
    receiver can change to the new one at any moment.
    """
    overlap = timedelta(seconds=rotation.overlap_seconds)
    with resources().database.begin() as session:
        rotated = rotate_secret(session, resources().vault, caller().tenant_id, endpoint_id, overlap=overlap)
        endpoint, secret = or_not_found(rotated)
        return present_endpoint(endpoint) | {"secret": secret}


@endpoints_blueprint.post("/<uuid:endpoint_id>/test")
@endpoints_blueprint.doc(
    tags=["Webhooks"],
    responses=answer(Delivery, "The test message is due now.", 202) | refusals(NOT_FOUND, ENDPOINT_DISABLED),
)
@needs(Scope.WEBHOOKS)
def test(endpoint_id: UUID) -> tuple[dict[str, Any], int]:
    """Send a test message to a webhook endpoint, of the type `webhook_endpoint.test`.

    It is signed, delivered and tried again as any other. Its `data` is the endpoint.
    """
    with resources().database.begin() as session:
        delivery = write_test(session, _enabled(session, endpoint_id))
        return _present_delivery(DeliveryRow(delivery, ())), 202


@endpoints_blueprint.post("/<uuid:endpoint_id>/recover")
@endpoints_blueprint.input(Recovery, location="json", arg_name="wanted")
@endpoints_blueprint.doc(
    tags=["Webhooks"],
    responses=answer(Recovered, "They are due now.", 202) | refusals(NOT_FOUND, ENDPOINT_DISABLED),
)
@needs(Scope.WEBHOOKS)
def recover(endpoint_id: UUID, wanted: Recovery) -> tuple[dict[str, Any], int]:
    """Resend the deliveries of a webhook endpoint that failed, of all events since a time.

    At most 10,000 at a time, the newest first: repeat the request until `count` is 0.
    """
    with resources().database.begin() as session:
        return {"count": deliveries.recover(session, _enabled(session, endpoint_id).id, wanted.since)}, 202


@endpoints_blueprint.post("/<uuid:endpoint_id>/enable")
@endpoints_blueprint.doc(
    tags=["Webhooks"], responses=answer(Endpoint, "The endpoint is enabled.") | refusals(NOT_FOUND)
)
@needs(Scope.WEBHOOKS)
def enable(endpoint_id: UUID) -> dict[str, Any]:
    """Enable a webhook endpoint that was disabled, for example after an answer of 410.

    Deliveries that were given up meanwhile are not sent by themselves: resend each. An enabled endpoint stays enabled.
    """
    with resources().database.begin() as session:
        return present_endpoint(or_not_found(enable_endpoint(session, caller().tenant_id, endpoint_id)))


@endpoints_blueprint.delete("/<uuid:endpoint_id>")
@endpoints_blueprint.doc(tags=["Webhooks"], responses=NO_CONTENT | refusals(NOT_FOUND))
@needs(Scope.WEBHOOKS)
def delete(endpoint_id: UUID) -> tuple[str, int]:
    """Delete a webhook endpoint, its pending deliveries and the log of its deliveries."""
    with resources().database.begin() as session:
        if not delete_endpoint(session, caller().tenant_id, endpoint_id):
            raise ApiError(NOT_FOUND)
    return "", 204


@deliveries_blueprint.get("")
@deliveries_blueprint.input(DeliveriesQuery, location="query", arg_name="query")
@deliveries_blueprint.doc(tags=["Webhooks"], responses=answer(DeliveryPage, "One page, newest first."))
@needs(Scope.WEBHOOKS)
def log(query: DeliveriesQuery) -> dict[str, Any]:
    """List the deliveries to your endpoints, newest first, with each try."""
    only = query.model_dump(include={"endpoint_id", "job_id", "state"}, exclude_none=True)
    with resources().database.begin() as session:
        page = list_deliveries(session, caller().tenant_id, only=only, after=query.after, limit=query.limit)
        return present_page(page, _present_delivery)


@deliveries_blueprint.get("/<uuid:delivery_id>")
@deliveries_blueprint.doc(tags=["Webhooks"], responses=answer(Delivery, "The delivery.") | refusals(NOT_FOUND))
@needs(Scope.WEBHOOKS)
def show_delivery(delivery_id: UUID) -> dict[str, Any]:
    """Show a delivery with each try."""
    with resources().database.begin() as session:
        return _present_delivery(or_not_found(find_delivery(session, caller().tenant_id, delivery_id)))


@deliveries_blueprint.post("/<uuid:delivery_id>/resend")
@deliveries_blueprint.doc(
    tags=["Webhooks"],
    responses=answer(Delivery, "It is due now.", 202) | refusals(NOT_FOUND, DELIVERY_PENDING, ENDPOINT_DISABLED),
)
@needs(Scope.WEBHOOKS)
def send_anew(delivery_id: UUID) -> tuple[dict[str, Any], int]:
    """Resend a delivery that has ended, whether it arrived or was given up.

    It has the same `webhook-id` and body, is tried within seconds and, where that fails, by the whole schedule again.
    """
    with resources().database.begin() as session:
        try:
            found = resend(session, caller().tenant_id, delivery_id)
        except DeliveryPendingError as error:
            raise ApiError(DELIVERY_PENDING, error.message) from None
        except EndpointDisabledError as error:
            raise ApiError(ENDPOINT_DISABLED, error.message) from None
        row = find_delivery(session, caller().tenant_id, delivery_id) if found else None
        return _present_delivery(or_not_found(row)), 202


def _enabled(session: Session, endpoint_id: UUID) -> WebhookEndpoint:
    """Return the caller's endpoint; raise `ApiError` if it has none of this id, or it is disabled."""
    endpoint = or_not_found(find_endpoint(session, caller().tenant_id, endpoint_id))
    if endpoint.disabled_at is not None:
        raise ApiError(ENDPOINT_DISABLED)
    return endpoint


def _check_url(url: str, allow: AllowList) -> None:
    """Refuse a malformed URL, or one with an address that is not public. The host's name is not looked up."""
    if not url.isprintable():
        raise field_error("url", "contains characters that cannot be printed")
    try:
        destination = parse(url)
        known = _LOOPBACK if destination.is_localhost else (destination.address,) if destination.address else ()
        admit(destination, known, allow)
        require_https(destination, allow)
    except EgressRefused as error:
        raise ApiError(URL_NOT_ALLOWED, error.message) from None


def _present_delivery(row: DeliveryRow) -> dict[str, Any]:
    delivery = row.delivery
    return {
        "id": str(delivery.id),
        "webhook_id": delivery.message_id,
        "endpoint_id": str(delivery.endpoint_id),
        "job_id": str(delivery.job_id) if delivery.job_id else None,
        "event_type": delivery.event_type,
        "state": delivery.state,
        "next_attempt_at": timestamp(delivery.next_attempt_at),
        "created_at": timestamp(delivery.created_at),
        "finished_at": timestamp(delivery.finished_at),
        "attempts": [_present_attempt(attempt) for attempt in row.attempts],
    }


def _present_attempt(attempt: WebhookAttempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "started_at": timestamp(attempt.started_at),
        "duration_ms": attempt.duration_ms,
        "status": attempt.status,
        "error": attempt.error,
        "response_excerpt": attempt.response_excerpt,
    }
