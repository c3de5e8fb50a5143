"""The base class of all tables: it holds their metadata and the column types of Python types."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    DateTime,
    Dialect,
    LargeBinary,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from shared.domain import DeliveryState, JobState, Role, WorkerState

_Values = TypeVar("_Values", bound=StrEnum)


class _Value(TypeDecorator[_Values]):
    """A value of an enumeration, stored as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, values: type[_Values]) -> None:
        super().__init__()
        self.values = values

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002  # SQLAlchemy's
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> _Values | None:  # noqa: ARG002
        return None if value is None else self.values(value)


class Base(DeclarativeBase):
    """The metadata that Alembic compares with the database."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        bytes: LargeBinary,
        JobState: _Value(JobState),
        DeliveryState: _Value(DeliveryState),
        Role: _Value(Role),
        WorkerState: _Value(WorkerState),
    }
