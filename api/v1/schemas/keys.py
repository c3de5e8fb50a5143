"""API keys."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import AwareDatetime, Field, field_validator

from api.v1.schemas.base import Document, PageLinks
from shared.tenants.api_keys import USUAL_SCOPES, Scope

#: A month.
_LONGEST_OVERLAP = 30 * 86_400


class NewKey(Document):
    """Body of `POST /v1/keys`."""

    name: str = Field(min_length=1, max_length=100, description="What the key is for.")
    scopes: list[Scope] = Field(
        default=list(USUAL_SCOPES),
        min_length=1,
        max_length=len(Scope),
        description="What it may do; everything but make keys, if left out. At most what your own key may.",
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="When it ends; if left out, when your own key does. Never later than that."
    )

    @field_validator("name")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("contains characters that cannot be printed")
        return value


class Rotation(Document):
    """Body of `POST /v1/keys/{key_id}/rotate`."""

    overlap_seconds: int = Field(
        default=0, ge=0, le=_LONGEST_OVERLAP, description="Seconds for which the old key still works."
    )


class Key(Document):
    """A key, without what is secret of it."""

    id: UUID
    name: str
    scopes: list[Scope]
    prefix: str | None = Field(description="Its first characters; null for a key of an old version.")
    created_at: datetime
    expires_at: datetime | None = Field(description="From then on it is refused; null: never.")
    last_used_at: datetime | None = Field(description="To the minute; null: not yet.")


class CreatedKey(Key):
    """A key that was just made."""

    key: str = Field(description="Keep it: it is shown now and never again.")


class KeyList(Document):
    """All keys of a tenant that are not revoked."""

    items: list[Key]
    links: PageLinks
