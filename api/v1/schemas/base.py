"""What all documents of the API have in common. They are pydantic models, which check requests and describe answers.

`shared/presenter.py` and the routes make the answers; the tests check them against these models.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from shared.database.pagination import Cursor, CursorError


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999, in UTC") from None


#: A time that a client sends, in UTC from here on: PostgreSQL refuses offsets of 16 hours and more, Python does not.
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Document(BaseModel):
    """A JSON object; it may have no other members."""

    model_config = ConfigDict(extra="forbid")


class Query(Document):
    """Query parameters. An unknown one is an error, because a misspelt filter that is ignored would return too much."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_control_characters(cls, value: object) -> object:
        if isinstance(value, str) and not value.isprintable():
            raise ValueError("contains characters that cannot be printed")
        return value


class Paging(Query):
    """Which page of a list."""

    limit: int = Field(default=20, ge=1, le=100, description="Maximum number of items on a page.")
    cursor: str | None = Field(default=None, description="The cursor in the previous page's `next` link.")

    @field_validator("cursor")
    @classmethod
    def _was_given_out(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Cursor.decode(value)
            except CursorError as error:
                raise ValueError(error.message) from error
        return value

    @property
    def after(self) -> Cursor | None:
        """The place that the cursor names."""
        return Cursor.decode(self.cursor) if self.cursor else None


#: Where a list goes on; `next` is null on the last page.
PageLinks = dict[Literal["self", "next"], str | None]


class WrongField(Document):
    """What is wrong with one field or parameter."""

    field: str
    message: str


class ProblemDocument(Document):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable. Programs decide by it.")
    remedy: str
    request_id: str = Field(description="Tell the operator this id when you report a problem.")
    errors: list[WrongField] = Field(default=[], description="Each wrong field, if fields are wrong.")
