"""The settings: read once from the environment into one frozen object, which is passed to all that need it."""

from __future__ import annotations

import os
from datetime import timedelta
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from shared.egress.url_policy import AllowList
from shared.environment import OF_THE_COMMAND, PREFIX
from shared.errors import DistildireError
from shared.server_urls import check_bucket, check_database, check_endpoint, check_origin, check_redis, check_secret

_SECRETS_DIR = Path("/run/secrets")
#: Upper limits. A larger value is a mistake that would only show later, as an overflow.
_DAY, _MOST_ROWS, _MOST_PUT, _MOST_MEMORY = 86_400, 2**31 - 1, 5 * 2**30, 2**46


def _seconds_or_duration(value: object) -> object:
    """Turn the digits of an environment variable into seconds; pydantic reads ISO 8601 durations itself."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class SettingsError(DistildireError):
    """The settings are incomplete or wrong."""


class _ReadSettings(BaseSettings):
    """Settings that an operator sets as `DISTILDIRE_<NAME>`, or as a file of that name in the secrets folder."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, allow_inf_nan=False
    )

    @classmethod
    def read(cls, **given: Any) -> Self:
        """Read the environment and the secrets folder; report all missing and wrong settings at once.

        Fields that are `given` take precedence over both.
        """
        #: The folder that holds secrets as files.
        folder = Path(os.environ.get(f"{PREFIX}SECRETS_DIR", _SECRETS_DIR))
        if folder != _SECRETS_DIR and not folder.is_dir():
            raise SettingsError(f"{PREFIX}SECRETS_DIR names {folder}, which is not a folder.")
        try:
            return cls(_secrets_dir=folder if folder.is_dir() else None, **given)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None  # the cause repeats the values, secrets among them
        except SourceError as error:  # it names the field
            why = type(error.__cause__).__name__
            msg = f"A secret in {folder} cannot be read ({error}: {why}). This process runs as user {os.geteuid()}."
            raise SettingsError(msg) from None


class CommonSettings(_ReadSettings):
    """Settings of every process of the service."""

    database_url: SecretStr = Field(description="PostgreSQL, as `postgresql://user:password@host:port/name`.")
    redis_url: SecretStr = Field(description="Redis or Valkey, as `redis://:password@host:port/0`.")

    model: str = Field(default="DISTILDIRE-DEMO", description="The name of the model card that workers serve.")
    models_dir: Path | None = Field(default=None, description="A folder of model cards and weights of your own.")
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="Where the model runs: `auto`, `cuda` or `cpu`."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="The number format of the networks: `auto`, `fp32`, `bf16` or `fp16`."
    )
    max_batch: int = Field(default=8, ge=1, le=256, description="The most images in one pass of the device.")
    batch_wait_ms: int = Field(
        default=10,
        ge=0,
        le=5000,
        description="Milliseconds for which the oldest image waits for others to join its batch.",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Jobs that one analysis worker runs at once; by default twice `MAX_BATCH`.",
    )

    lease_seconds: float = Field(
        default=30, ge=2, le=_DAY, description="Seconds of silence after which a worker loses its jobs."
    )
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="A job fails after this many workers died while they ran it isolated."
    )
    deadline_hours: float = Field(
        default=24, gt=0, le=87_600, description="Hours after which a job that has not ended expires."
    )
    poll_seconds: float = Field(
        default=2, gt=0, le=_DAY, description="Seconds after which an idle worker looks for work again."
    )
    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="Days after which an ended job is deleted with all its bytes; kept for ever if not set.",
    )

    max_open_jobs: int = Field(
        default=100_000,
        ge=1,
        le=_MOST_ROWS,
        description="The most jobs that may wait or run; beyond that, submissions are answered 503.",
    )
    max_open_jobs_per_tenant: int = Field(
        default=10_000,
        ge=1,
        le=_MOST_ROWS,
        description="The same limit for one tenant, answered 429; `distildire tenants set` makes exceptions.",
    )
    max_upload_bytes: int = Field(
        default=20_000_000, ge=1, le=_MOST_PUT, description="The most bytes that an image file may have."
    )
    max_pixels: int = Field(default=40_000_000, ge=1, le=_MOST_ROWS, description="The most pixels an image may have.")
    decode_memory_bytes: int = Field(
        default=2_000_000_000,
        ge=100_000_000,
        le=_MOST_MEMORY,
        description="Bytes of address space that a decoder, the child process that decodes and draws, may use.",
    )
    decode_seconds: float = Field(
        default=8,
        gt=0,
        le=_DAY,
        description="Processor seconds of a decoder; in decoding and in drawing it may be idle for three times that.",
    )

    bind: str = Field(
        default="127.0.0.1:8000",
        description="Where the API listens: `host:port`, or `unix:` and the path of a socket.",
    )
    api_processes: int = Field(default=2, ge=1, le=256, description="Processes of one API that answer requests.")
    rate_limit: int = Field(
        default=12_000,
        ge=1,
        le=_MOST_ROWS,
        description="The most requests that one API key may make in a minute; beyond that, they are answered 429.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated origins, as `https://host`, whose pages may call the API from a browser.",
    )

    egress_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated `host:port`, addresses or CIDRs that webhooks may reach even if private.",
    )
    webhook_disable_after: Annotated[timedelta, BeforeValidator(_seconds_or_duration)] = Field(
        default=timedelta(days=5),
        gt=timedelta(0),
        description="How long every try to a webhook endpoint must fail before it is disabled: seconds, or an ISO 8601 "
        "duration such as `P5D`.",
    )
    pass_seconds: float = Field(
        default=300,
        gt=0,
        le=_DAY,
        description="The most seconds that a pass of the device may take, however slow the device is.",
    )
    memory_bytes: int | None = Field(
        default=None,
        ge=100_000_000,
        le=_MOST_MEMORY,
        description="An analysis worker that exceeds this in a pass ends itself; by default 80 % of the memory.",
    )
    drain_seconds: float = Field(
        default=25,
        ge=0,
        le=_DAY,
        description="Seconds in which a worker that is told to stop may finish its jobs.",
    )
    watchdog_seconds: float = Field(
        default=120,
        gt=0,
        le=_DAY,
        description="Seconds without a job, while work waits, after which a worker ends; at least 2 `POLL_SECONDS`.",
    )
    ready_file: Path | None = Field(
        default=None, description="A file that exists while a worker is ready, for health checks."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The lowest level that is logged: `DEBUG`, `INFO`, `WARNING` or `ERROR`."
    )

    @field_validator("database_url")
    @classmethod
    def _database_can_be(cls, value: SecretStr) -> SecretStr:
        check_database(value.get_secret_value())
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_can_be(cls, value: SecretStr) -> SecretStr:
        check_redis(value.get_secret_value())
        return value

    @field_validator("bind")
    @classmethod
    def _can_be_bound(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not value.startswith("unix:/") and not (host and port.isdecimal() and 0 < int(port) < 65_536):
            raise ValueError("it must be host:port, as in 127.0.0.1:8000, or unix: and the path of a socket")
        return value

    @field_validator("egress_allow", "cors_origins", mode="before")
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

    @field_validator("cors_origins")
    @classmethod
    def _origins_can_be(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            check_origin(origin)
        return value

    @field_validator("models_dir")
    @classmethod
    def _models_dir_is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            msg = f"{value} is not a folder; create it or leave {PREFIX}MODELS_DIR out"
            raise ValueError(msg)
        return value

    @field_validator("ready_file")
    @classmethod
    def _ready_file_has_a_place(cls, value: Path | None) -> Path | None:
        if value is not None and not value.parent.is_dir():
            raise ValueError(f"{value.parent} is not a folder; create it or leave {PREFIX}READY_FILE out")
        return value

    @cached_property
    def slot_count(self) -> int:
        """Jobs that run at once: enough to fill a batch while the one before is drawn and stored."""
        return self.slots or 2 * self.max_batch

    @property
    def watchdog_limit_seconds(self) -> float:
        """Seconds for which a worker may take no work: at least the time of two of its polls."""
        return max(self.watchdog_seconds, 2 * self.poll_seconds)


class StoreSettings(_ReadSettings):
    """The address of the object store and its keys."""

    s3_endpoint: str = Field(description="The object store, as `http://host:port`, as the processes reach it.")
    s3_public_endpoint: str | None = Field(
        default=None, description="The object store as browsers reach it: presigned links are signed for this host."
    )
    s3_region: str = Field(
        default="us-east-1", pattern=r"^[A-Za-z0-9-]+$", description="The store's region, part of each signature."
    )
    s3_access_key: SecretStr = Field(description="The store's access key.")
    s3_secret_key: SecretStr = Field(description="The store's secret key.")
    s3_bucket: str = Field(default="distildire", description="The bucket that holds uploads and pictures.")

    @field_validator("s3_endpoint", "s3_public_endpoint")
    @classmethod
    def _endpoint_can_be(cls, value: str | None) -> str | None:
        if value is not None:
            check_endpoint(value)
        return value

    @field_validator("s3_access_key", "s3_secret_key")
    @classmethod
    def _nothing_came_along(cls, value: SecretStr) -> SecretStr:
        check_secret(value.get_secret_value())
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _bucket_can_be(cls, value: str) -> str:
        check_bucket(value)
        return value


class AnalysisSettings(StoreSettings, CommonSettings):
    """The settings of an analysis worker. It reads strangers' images, so it gets no secret that it does not need."""


class Settings(AnalysisSettings):
    """All settings: for the API, for the webhook worker, and for the operator's commands."""

    secret_key: SecretStr = Field(
        min_length=32,
        description="At least 32 random characters: keys the hashes of API keys and encrypts webhook secrets at rest.",
    )

    @field_validator("secret_key")
    @classmethod
    def _no_space_came_along(cls, value: SecretStr) -> SecretStr:
        check_secret(value.get_secret_value())
        return value


def load_settings() -> Settings:
    """Return the settings of this process; raise a `SettingsError` that lists every problem."""
    return Settings.read()


def unknown_settings() -> dict[str, str | None]:
    """Return the variables with our prefix that name no setting, as after a typing error, with the likely setting."""
    known = {*(name.upper() for name in Settings.model_fields), "SECRETS_DIR"}
    found = (name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX) and name not in OF_THE_COMMAND)
    meant = {name: get_close_matches(name, sorted(known), n=1, cutoff=0.8) for name in found if name not in known}
    return {f"{PREFIX}{name}": f"{PREFIX}{nearest[0]}" if nearest else None for name, nearest in meant.items()}


def secrets_of(kind: type[CommonSettings]) -> set[str]:
    """Return the variables of the secrets that settings of this kind contain."""
    fields = kind.model_fields.items()
    return {f"{PREFIX}{name.upper()}" for name, field in fields if field.annotation is SecretStr}


def _explain(error: ValidationError) -> str:
    said = [
        (str(e["loc"][0]).upper(), e["msg"].removeprefix("Value error, ")) for e in error.errors(include_input=False)
    ]
    lines = [f"  {PREFIX}{name}: {message[0].lower()}{message[1:]}" for name, message in said]
    return "\n".join(["The settings are incomplete or wrong:", *lines, "See docs/settings.md."])
