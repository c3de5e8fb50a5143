"""The one settings object: read once from the environment, frozen, passed in."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from shared.destinations import AllowList
from shared.errors import DistildireError

PREFIX = "DISTILDIRE_"
_SECRETS_DIR = Path("/run/secrets")


class SettingsError(DistildireError):
    """The settings are incomplete or wrong."""


class Settings(BaseSettings):
    """Everything that an operator may set, by `DISTILDIRE_<NAME>` or by a file of that name in the secrets folder."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: SecretStr = Field(description="PostgreSQL, as `postgresql://user:password@host:port/name`.")
    redis_url: SecretStr = Field(description="Redis or Valkey, as `redis://:password@host:port/0`.")
    secret_key: SecretStr = Field(
        min_length=32,
        description="At least 32 random characters: keys the hashes of API keys and encrypts webhook secrets at rest.",
    )

    s3_endpoint: str = Field(description="The object store, as `http://host:port`, as the processes reach it.")
    s3_public_endpoint: str | None = Field(
        default=None, description="The object store as browsers reach it: presigned links are signed for this host."
    )
    s3_region: str = Field(default="us-east-1", description="The store's region, part of each signature.")
    s3_access_key: SecretStr = Field(description="The store's access key.")
    s3_secret_key: SecretStr = Field(description="The store's secret key.")
    s3_bucket: str = Field(default="distildire", description="The bucket that holds uploads and pictures.")

    model: str = Field(default="DISTILDIRE-DEMO", description="The name of the model card that workers serve.")
    models_dir: Path | None = Field(default=None, description="A folder of model cards and weights of your own.")
    device: Literal["auto", "cuda", "cpu"] = Field(default="auto", description="Where the model runs.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(default="auto", description="The nets' number format.")
    max_batch: int = Field(default=8, ge=1, le=256, description="The most images in one pass of the device.")
    batch_wait_ms: int = Field(
        default=10, ge=0, le=5000, description="How long the oldest image waits for others to join its batch."
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Jobs that one analysis worker carries at once; by default twice `max_batch`.",
    )

    lease_seconds: float = Field(default=30, ge=2, description="A worker that is silent for so long has lost its jobs.")
    max_attempts: int = Field(default=3, ge=1, description="So many deaths of a worker end a job as failed.")
    deadline_hours: float = Field(default=24, gt=0, description="A job not finished by then is expired.")
    poll_seconds: float = Field(default=2, gt=0, description="How often an idle worker looks for work by itself.")

    pass_seconds: float = Field(
        default=300, gt=0, description="The longest that a pass of the device may take, however slow the device is."
    )
    memory_bytes: int | None = Field(
        default=None,
        ge=100_000_000,
        description="An analysis worker that a pass brings above this ends itself; by default 80 % of what there is.",
    )
    drain_seconds: float = Field(
        default=25, ge=0, description="How long a worker that is told to stop may finish what it carries."
    )
    watchdog_seconds: float = Field(
        default=120,
        gt=0,
        description="A worker that takes nothing for so long (at least 2 `POLL_SECONDS`) while work waits ends itself.",
    )
    ready_file: Path | None = Field(
        default=None, description="A file that exists while a worker is ready, for health checks."
    )

    max_open_jobs: int = Field(
        default=100_000, ge=1, description="The most jobs that wait or run; beyond it submissions answer 503."
    )
    max_open_jobs_per_tenant: int = Field(
        default=10_000, ge=1, description="The same for one tenant, 429; `distildire tenants set` makes exceptions."
    )
    retention_days: int | None = Field(
        default=None,
        ge=1,
        description="Jobs that ended so long ago are deleted with all their bytes; kept for ever if not set.",
    )

    max_upload_bytes: int = Field(default=20_000_000, ge=1, description="The largest image file accepted.")
    max_pixels: int = Field(default=40_000_000, ge=1, description="The most pixels an image may have.")
    decode_memory_bytes: int = Field(
        default=2_000_000_000, ge=100_000_000, description="Address space of a child process that decodes and renders."
    )
    decode_seconds: float = Field(
        default=8,
        gt=0,
        description="Processor time of a child; by the clock, decoding and drawing may each take three times it.",
    )

    egress_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated `host:port`, addresses or CIDRs that webhooks may reach although private.",
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The least level logged."
    )

    @field_validator("egress_allow", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        return value

    @field_validator("egress_allow")
    @classmethod
    def _entries_can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.parse(value)
        return value

    @field_validator("models_dir")
    @classmethod
    def _models_dir_is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            msg = f"{value} is not a folder; create it or leave {PREFIX}MODELS_DIR out"
            raise ValueError(msg)
        return value

    @cached_property
    def slot_count(self) -> int:
        """Jobs carried at once: enough to fill a batch while the one before is drawn and stored."""
        return self.slots or 2 * self.max_batch

    @property
    def watchdog_patience(self) -> float:
        """Seconds for which a worker may take nothing: never fewer than two of its own looks for work need."""
        return max(self.watchdog_seconds, 2 * self.poll_seconds)

    @classmethod
    def read(cls, **given: Any) -> Self:
        """Read the environment and the secrets folder; report all that is missing or wrong at once.

        What is `given`, by field, goes before both.
        """
        folder = Path(os.environ.get(f"{PREFIX}SECRETS_DIR", _SECRETS_DIR))
        try:
            return cls(_secrets_dir=folder if folder.is_dir() else None, **given)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None  # the cause repeats the values, secrets among them
        except SourceError as error:  # it names the field
            why = type(error.__cause__).__name__
            msg = f"A secret in {folder} cannot be read ({error}: {why}). This process runs as user {os.geteuid()}."
            raise SettingsError(msg) from None


def load_settings() -> Settings:
    """Return the settings of this process; raise `SettingsError` that names every problem."""
    return Settings.read()


def _explain(error: ValidationError) -> str:
    lines = [f"  {PREFIX}{str(e['loc'][0]).upper()}: {e['msg'].lower()}" for e in error.errors(include_input=False)]
    return "\n".join(["The settings are incomplete or wrong:", *lines, "See docs/settings.md."])
