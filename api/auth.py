"""Authentication: which key a request was sent with. Every route needs one unless it is listed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import structlog
from flask import current_app, g, request

from api.dependencies import resources
from api.problems.table import KEY_INVALID, KEY_MISSING, OPERATOR_ONLY, SCOPE_MISSING, ApiError
from shared.tenants.api_keys import Caller, Scope, authenticate

#: Endpoints that need no key: they show nothing of any tenant.
PUBLIC = frozenset(
    {"health.alive", "health.ready", "metrics.metrics", "docs.page", "static", "openapi.spec"},
)
_SCOPE = "scope"
_View = TypeVar("_View", bound=Callable[..., Any])
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="distildire"'}


def needs(scope: Scope) -> Callable[[_View], _View]:
    """Mark a view: only a key that has this scope may call it. Each view that is not public needs the mark."""

    def mark(view: _View) -> _View:
        view.__dict__[_SCOPE] = scope
        return view

    return mark


def needed_scope(view: Callable[..., Any]) -> Scope:
    """Return the scope that a view was marked with."""
    return cast("Scope", view.__dict__[_SCOPE])  # decorators copy it from the function that they wrap


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


def require_scope() -> None:
    """Refuse a key that lacks the scope of the route; raise `ApiError` (403)."""
    if "caller" not in g or request.endpoint is None:
        return
    scope = needed_scope(current_app.view_functions[request.endpoint])
    if scope not in caller().scopes:
        has = ", ".join(sorted(caller().scopes)) or "none"
        raise ApiError(SCOPE_MISSING, f"The scope `{scope}` is needed; this key has: {has}.")


def caller() -> Caller:
    """Return the tenant and the rights of the request's key."""
    return cast("Caller", g.caller)


def require_operator() -> None:
    """Raise `ApiError` (403) unless the key is an operator's: for routes that concern all tenants, or none."""
    if not caller().operator:
        raise ApiError(OPERATOR_ONLY)


def _look_up(key: str) -> Caller | None:
    with resources().database.begin() as session:
        return authenticate(session, resources().vault, key)
