"""A page of a list as a document: its items, the link to itself and the one to the next page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import request, url_for

from shared.database.pagination import Page

_T = TypeVar("_T")


def present_page(page: Page[_T], present: Callable[[_T], dict[str, Any]]) -> dict[str, Any]:
    """Return the document of `page`, each row as `present` shows it; call it while the rows' session is open.

    The links repeat this request. That of the next page has its cursor; it is null on the last page.
    """
    query: dict[str, Any] = request.args.to_dict()
    endpoint = str(request.endpoint)
    following = url_for(endpoint, **{**query, "cursor": page.next.encode()}) if page.next else None
    return {
        "items": [present(row) for row in page.rows],
        "links": {"self": url_for(endpoint, **query), "next": following},
    }
