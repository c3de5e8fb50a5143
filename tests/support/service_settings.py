"""Settings of processes under test, that point at the servers of the test session."""

from __future__ import annotations

from pydantic import SecretStr

from deploy.local.services import ServiceUrls
from shared.settings import Settings

SECRET_KEY = "a secret key for tests, 32 chars at least"


def settings_for(services: ServiceUrls, **changes: object) -> Settings:
    """Return settings for `services`; `changes` by field name."""
    fields: dict[str, object] = {
        "database_url": SecretStr(services.database_url),
        "redis_url": SecretStr(services.redis_url),
        "secret_key": SecretStr(SECRET_KEY),
        "s3_endpoint": services.s3_endpoint,
        "s3_access_key": SecretStr(services.s3_access_key),
        "s3_secret_key": SecretStr(services.s3_secret_key),
        "s3_bucket": services.s3_bucket,
    }
    return Settings.model_validate(fields | changes)
