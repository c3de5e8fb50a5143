"""API keys over HTTP: a tenant makes, lists, rotates and revokes its own keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from apiflask import APIBlueprint

from api.auth import caller, needs
from api.dependencies import resources
from api.problems.table import NOT_FOUND, SCOPE_MISSING, TOO_MANY_KEYS, ApiError, field_error
from api.v1.responses import NO_CONTENT, answer, refusals
from api.v1.schemas.keys import CreatedKey, KeyList, NewKey, Rotation
from shared.database.tables import ApiKey
from shared.presenter import timestamp
from shared.tenants import api_keys
from shared.tenants.api_keys import Scope

keys_blueprint = APIBlueprint("keys", __name__, url_prefix="/v1/keys")

#: Of one tenant, not revoked.
MOST_KEYS = 100


@keys_blueprint.post("")
@keys_blueprint.input(NewKey, location="json", arg_name="new")
@keys_blueprint.doc(
    tags=["Keys"],
    responses=answer(CreatedKey, "The key: the only time it is shown.", 201, "Location")
    | refusals(TOO_MANY_KEYS, SCOPE_MISSING),
)
@needs(Scope.ADMIN)
def create(new: NewKey) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make a key of your tenant.

    It may do no more than the key that makes it, and ends no later.
    """
    with resources().database.begin() as session:
        if len(api_keys.list_living_keys(session, caller().tenant_id)) >= MOST_KEYS:
            raise ApiError(TOO_MANY_KEYS, f"There are {MOST_KEYS} already.")
        try:
            made = api_keys.create_key_for(
                session, resources().vault, caller(), name=new.name, scopes=new.scopes, expires_at=new.expires_at
            )
        except api_keys.ExpiryError as error:
            raise field_error("expires_at", error.message) from None
        return _created(made)


@keys_blueprint.get("")
@keys_blueprint.doc(tags=["Keys"], responses=answer(KeyList, "All of them."))
@needs(Scope.ADMIN)
def index() -> dict[str, Any]:
    """List your tenant's keys that are not revoked, oldest first."""
    with resources().database.begin() as session:
        items = [_present(row) for row in api_keys.list_living_keys(session, caller().tenant_id)]
    return {"items": items, "links": {"self": "/v1/keys", "next": None}}


@keys_blueprint.delete("/<uuid:key_id>")
@keys_blueprint.doc(tags=["Keys"], responses=NO_CONTENT | refusals(NOT_FOUND))
@needs(Scope.ADMIN)
def revoke(key_id: UUID) -> tuple[str, int]:
    """Revoke a key of your tenant: from now on, requests with it are refused."""
    with resources().database.begin() as session:
        if not api_keys.revoke_key(session, key_id, caller().tenant_id):
            raise ApiError(NOT_FOUND)
    return "", 204


@keys_blueprint.post("/<uuid:key_id>/rotate")
@keys_blueprint.input(Rotation, location="json", arg_name="rotation")
@keys_blueprint.doc(
    tags=["Keys"],
    responses=answer(CreatedKey, "The key that takes its place: the only time it is shown.", 201, "Location")
    | refusals(NOT_FOUND, SCOPE_MISSING),
)
@needs(Scope.ADMIN)
def rotate(key_id: UUID, rotation: Rotation) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make a key that replaces another. The old key ends when the overlap is over.

    The new key has the name, the scopes and the end of the old one.
    """
    overlap = timedelta(seconds=rotation.overlap_seconds)
    with resources().database.begin() as session:
        made = api_keys.rotate_key(session, resources().vault, caller(), key_id, overlap=overlap)
        if made is None:
            raise ApiError(NOT_FOUND)
        return _created(made)


def _created(made: api_keys.NewKey) -> tuple[dict[str, Any], int, dict[str, str]]:
    return _present(made.row) | {"key": made.key}, 201, {"Location": f"/v1/keys/{made.id}"}


def _present(row: ApiKey) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "scopes": row.scopes,
        "prefix": row.prefix,
        "created_at": timestamp(row.created_at),
        "expires_at": timestamp(row.expires_at),
        "last_used_at": timestamp(row.last_used_at),
    }
