"""Authentication: which key a request carries. Every route needs one unless it is listed here."""

from __future__ import annotations

from typing import cast

import structlog
from flask import g, request

from api.dependencies import resources
from api.problems import KEY_INVALID, KEY_MISSING, OPERATOR_ONLY, ApiError
from shared.tenants.api_keys import KEY_PREFIX, Caller, authenticate

#: Endpoints that need no key: they show nothing of any tenant.
PUBLIC = frozenset(
    {"health.alive", "health.ready", "metrics.metrics", "docs.page", "static", "openapi.spec"},
)
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="distildire"'}


def require_key() -> None:
    """Authenticate the request before its body is read; raise `ApiError` (401) without a valid key."""
    if request.endpoint in PUBLIC or (request.endpoint is None and not request.path.startswith("/v1/")):
        return
    sent = request.authorization
    if sent is None or sent.type != "bearer" or not sent.token:
        raise ApiError(KEY_MISSING, headers=_CHALLENGE)
    found = _look_up(sent.token)
    if found is None:
        raise ApiError(KEY_INVALID, headers=_CHALLENGE)
    structlog.contextvars.bind_contextvars(tenant_id=str(found.tenant_id))
    g.caller = found


def caller() -> Caller:
    """Return the tenant and the rights of the request's key."""
    return cast("Caller", g.caller)


def require_operator() -> None:
    """Raise `ApiError` (403) unless the key is an operator's: for routes that concern all tenants, or none."""
    if not caller().operator:
        raise ApiError(OPERATOR_ONLY)


def _look_up(key: str) -> Caller | None:
    if not key.startswith(KEY_PREFIX):
        return None
    with resources().database.begin() as session:
        return authenticate(session, resources().vault, key)
