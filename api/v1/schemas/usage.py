"""What a tenant used."""

from __future__ import annotations

import re
from datetime import date, timedelta
from uuid import UUID

from pydantic import Field, field_validator

from api.v1.schemas.base import Document, Query

_DATE = re.compile("2[0-9]{3}-[0-9]{2}-[0-9]{2}")
_USUAL_SPAN = timedelta(days=29)
#: The most days that one answer covers.
MOST_DAYS = 366


class UsageQuery(Query):
    """Query of `GET /v1/usage`."""

    from_: date | None = Field(
        default=None, alias="from", description="First day, UTC, as YYYY-MM-DD. If omitted: 29 days before `to`."
    )
    to: date | None = Field(default=None, description="Last day, UTC, as YYYY-MM-DD. If omitted: today.")

    @field_validator("from_", "to", mode="before")
    @classmethod
    def _is_written_as_a_date(cls, value: object) -> object:
        if isinstance(value, str) and not _DATE.fullmatch(value):  # pydantic also takes numbers for dates
            raise ValueError("must be a date from the year 2000 on, as YYYY-MM-DD")
        return value

    def days(self, today: date) -> tuple[date, date]:
        """Return the first and the last day that are asked for."""
        last = self.to or today
        return self.from_ or last - _USUAL_SPAN, last


class DayUsage(Document):
    """What one key used on one day."""

    day: date = Field(description="In UTC: the day on which the jobs ended.")
    key_id: UUID | None = Field(description="The key that submitted the jobs; null for jobs of an older version.")
    jobs: int = Field(ge=0, description="The number of jobs that ended, however they ended.")
    bytes: int = Field(ge=0, description="The bytes of their images, as they were uploaded.")
    device_seconds: float = Field(
        ge=0,
        description="The jobs' share of the device's time: the duration of each pass, divided by its images. "
        "Only jobs that succeeded count.",
    )


class Usage(Document):
    """A tenant's usage by day and key, oldest day first. Days without jobs are missing."""

    items: list[DayUsage]
