"""What to ask of a server when a part of a file is there, and what its answer means (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True)
class Version:
    """What a server says of one version of a file; None where it says nothing."""

    validator: str | None = None
    """A strong ETag or a date, by which the server recognises this version."""
    total: int | None = None
    """Bytes of the whole file."""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str]) -> Version:
        """Read an answer's headers; their names are in lower case, or the mapping does not mind."""
        etag = headers.get("etag", "")
        validator = etag if etag.startswith('"') else headers.get("last-modified")
        if status == 200:
            length = headers.get("content-length", "")
            return cls(validator, int(length) if length.isdecimal() else None)
        _, total = _content_range(headers)
        return cls(validator, total)


class Action(Enum):
    """What follows from an answer."""

    BEGIN = auto()
    """The answer is the whole file: drop what is there."""
    GO_ON = auto()
    """The answer is the rest."""
    ASK_ANEW = auto()
    """The answer fits nothing that is there: drop it, and ask for the whole file."""
    WHOLE = auto()
    """There is nothing more."""


def range_headers(have: int, version: Version) -> dict[str, str]:
    """Return what to ask with where `have` bytes are there: for the rest, if it is still the same version."""
    if not have:
        return {}
    condition = {"If-Range": version.validator} if version.validator else {}
    return {"Range": f"bytes={have}-", **condition}


def decide(status: int, headers: Mapping[str, str], have: int, version: Version) -> Action:
    """Say what an answer of status 200, 206 or 416 means for the `have` bytes of `version` that are there."""
    if status == 200:
        return Action.BEGIN
    start, total = _content_range(headers)
    if status == 416:
        return Action.WHOLE if have and total == have else Action.ASK_ANEW
    offered = Version.of(status, headers)
    contradicts = any(
        then is not None and now is not None and then != now
        for then, now in ((version.validator, offered.validator), (version.total, offered.total))
    )
    return Action.GO_ON if start == have and not contradicts else Action.ASK_ANEW


def _content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return first byte and size of the whole, as far as they are stated."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None:
        return None, None
    start, total = match.groups()
    return int(start) if start else None, int(total) if total and total != "*" else None
