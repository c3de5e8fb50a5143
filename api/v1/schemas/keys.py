"""API keys."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field, field_validator

from api.v1.schemas.base import Document, Moment, PageLinks
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
        description="What the key may do. If omitted: everything but manage keys. "
        "A key has at most the scopes of the key that makes it.",
    )
    expires_at: Moment | None = Field(
        default=None,
        description="When the key expires. If omitted, when the key that makes it expires; never later than that.",
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
        default=0, ge=0, le=_LONGEST_OVERLAP, description="Seconds for which the old key remains valid."
    )


class Key(Document):
    """An API key, without its secret."""

    id: UUID
    name: str
    scopes: list[Scope]
    prefix: str | None = Field(description="The key's first characters; null for a key that an old version made.")
    created_at: datetime
    expires_at: datetime | None = Field(description="The key is refused from this time on; null: it does not expire.")
    last_used_at: datetime | None = Field(description="Accurate to a minute; null: the key was not used yet.")


class CreatedKey(Key):
    """A new key."""

    key: str = Field(description="Store it now: the service never shows it again.")


class KeyList(Document):
    """The tenant's keys that are not revoked."""

    items: list[Key]
    links: PageLinks
