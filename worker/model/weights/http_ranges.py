"""How to request the rest of a file, and what the server's response means (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True)
class Version:
    """What a server states about one version of a file; None if it states nothing."""

    validator: str | None = None
    """A strong ETag or a date, by which the server recognises this version."""
    total: int | None = None
    """Bytes of the whole file."""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str]) -> Version:
        """Read a response's headers. Their names are in lower case, or the mapping ignores case."""
        etag = headers.get("etag", "")
        validator = etag if etag.startswith('"') else headers.get("last-modified")
        if status == 200:
            length = headers.get("content-length", "")
            return cls(validator, int(length) if length.isdecimal() else None)
        _, total = _content_range(headers)
        return cls(validator, total)


class Action(Enum):
    """What to do after a response."""

    BEGIN = auto()
    """The response is the whole file: discard the part that is stored."""
    GO_ON = auto()
    """The response is the rest."""
    ASK_ANEW = auto()
    """The response does not fit the part that is stored: discard that part, and request the whole file."""
    WHOLE = auto()
    """The file is complete."""


def range_headers(have: int, version: Version) -> dict[str, str]:
    """Return the headers that request the rest after `have` bytes, if the file still has the same version."""
    if not have:
        return {}
    condition = {"If-Range": version.validator} if version.validator else {}
    return {"Range": f"bytes={have}-", **condition}


def decide(status: int, headers: Mapping[str, str], have: int, version: Version) -> Action:
    """Return what a response of status 200, 206 or 416 means for the `have` stored bytes of `version`."""
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
    """Return the first byte's position and the size of the whole file, as far as the server states them."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None:
        return None, None
    start, total = match.groups()
    return int(start) if start else None, int(total) if total and total != "*" else None
