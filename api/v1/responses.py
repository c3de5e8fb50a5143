"""Descriptions of a route's answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from api.problems.table import (
    MEDIA_TYPE,
    Problem,
)
from api.v1.schemas.base import Document, ProblemDocument

Responses = dict[int | str, Any]
NO_CONTENT: Responses = {204: {"description": "It is gone."}}


def answer(model: type[Document], description: str, status: int = 200, *names: str) -> Responses:
    """Return the description of a JSON answer that has the headers of these names."""
    return {status: {"description": description, "content": json_content(model), "headers": headers(*names)}}


def file_answer(description: str, *media_types: str) -> Responses:
    """Return the description of an answer that is a file of one of these types."""
    content = {name: {"schema": {"type": "string", "format": "binary"}} for name in media_types}
    return {200: {"description": description, "content": content}}


def refusals(*problems: Problem) -> Responses:
    """Return the descriptions of these problems, by status. `api/docs/openapi.py` adds those that every route has."""
    found: Responses = {}
    for problem in problems:
        text = f"`{problem.code}`: {problem.title}."
        known = found.get(problem.status)
        found[problem.status] = _problem(f"{known['description']} {text}" if known else text)
    return found


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _reference(ProblemDocument)}}}


def json_content(model: type[Document]) -> dict[str, Any]:
    """Return the description of content that is a JSON document."""
    return {"application/json": {"schema": _reference(model)}}


def headers(*names: str) -> dict[str, Any]:
    """Return the description of headers."""
    return {name: {"schema": {"type": "string"}} for name in names}


def _reference(model: type[Document]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
