"""What a client may choose for a job, beside its image: one model for all bodies, whatever their content type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator

from api.problems.table import INVALID_FIELD, UNKNOWN_MODEL, VALUE_ERROR, ApiError, FieldError
from api.v1.schemas.base import Document
from shared.domain import DECLARATIONS, PICTURES, POLICY_NAME, JobOptions
from shared.settings import Settings

#: The longest time that a client may give a job: a week.
MOST_DEADLINE_SECONDS = 604_800
MOST_CLIENT_REF = 128
#: Words for the pictures of a job: all of them, all if the verdict is not REAL, or none.
PICTURE_WORDS = ("all", "flagged", "none")
_METADATA_DEPTH = 16


class JobFields(Document):
    """The fields of a job, as plain JSON values."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    policy: Annotated[str, Field(pattern=POLICY_NAME)] | None = None
    stability: bool = False
    pictures: tuple[str, ...] | Literal["all", "flagged", "none"] = "all"
    metadata: dict[str, Any] = Field(default={})
    client_ref: Annotated[str, Field(min_length=1, max_length=MOST_CLIENT_REF)] | None = None
    declared: Literal[DECLARATIONS] | None = None  # type: ignore[valid-type]  # named in one place
    deadline_seconds: Annotated[int, Field(ge=1, le=MOST_DEADLINE_SECONDS)] | None = None

    @field_validator("pictures", mode="before")
    @classmethod
    def _are_pictures(cls, value: object) -> object:
        if isinstance(value, list) and all(name in PICTURES for name in value):
            return tuple(name for name in PICTURES if name in value)
        if isinstance(value, str) and value in PICTURE_WORDS:
            return value
        raise ValueError(f"must be {', '.join(PICTURE_WORDS)}, or a list of some of {', '.join(PICTURES)}")

    @field_validator("client_ref")
    @classmethod
    def _is_visible(cls, value: str | None) -> str | None:
        if value is not None and not (value.isprintable() and value == value.strip()):
            raise ValueError("must be visible characters, without spaces at either end")
        return value

    @field_validator("metadata")
    @classmethod
    def _can_be_stored(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            _check_storable(value)
        except ValueError:
            raise ValueError("must be a JSON object of plain values") from None
        return value

    def options(self) -> JobOptions:
        """Return the options of the job."""
        named = PICTURES if isinstance(self.pictures, str) else self.pictures
        return JobOptions(
            model=self.model,
            policy=self.policy,
            stability=self.stability,
            pictures=() if self.pictures == "none" else named,
            flagged_only=self.pictures == "flagged",
            client_metadata=self.metadata,
            client_ref=self.client_ref,
            declared=self.declared,
            deadline_seconds=self.deadline_seconds,
        )


def read_options(values: Mapping[str, Any], settings: Settings) -> JobOptions:
    """Return the options that `values` choose; raise `ApiError` naming each field that is wrong."""
    try:
        fields = JobFields.model_validate(values)
    except ValidationError as error:
        wrong = [
            FieldError(str(found["loc"][0]), found["msg"].removeprefix(VALUE_ERROR))
            for found in error.errors(include_url=False, include_input=False)
        ]
        detail = "; ".join(f"{each.field}: {each.message}" for each in wrong)
        raise ApiError(INVALID_FIELD, detail, errors=wrong) from None
    check_model(fields.model, settings)
    return fields.options()


def check_model(name: str | None, settings: Settings) -> None:
    """Raise `ApiError` if a job asks for another model than this service runs."""
    if name is not None and name != settings.model:
        raise ApiError(UNKNOWN_MODEL, f"This service runs the model {settings.model}.")


def _check_storable(value: Any, depth: int = 0) -> None:
    """Raise ValueError for what jsonb or UTF-8 cannot hold (NUL, lone surrogates, infinities), and for deep nesting."""
    if depth > _METADATA_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode()
        if "\0" in value:
            raise ValueError("NUL in a string")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            _check_storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)
