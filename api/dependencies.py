"""The connections and settings that requests need, made once in each process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from uuid import UUID

from flask import current_app, g, has_app_context

from api.rate_limits import RateLimiter
from api.wakeups import WakeupQueue
from shared.broker.celery_app import Broker, make_celery
from shared.broker.wakeups import Wakeups
from shared.crypto import Vault
from shared.database.engine import REQUEST, Database
from shared.domain import Role
from shared.egress.url_policy import AllowList
from shared.jobs.submission import Submissions
from shared.settings import Settings
from shared.storage.object_store import BRIEF_SECONDS, ObjectStore

EXTENSION = "distildire"


@dataclass(frozen=True)
class Resources:
    """The settings, and one wrapper for each server and library."""

    settings: Settings
    database: Database
    store: ObjectStore
    submissions: Submissions
    broker: Broker
    wakeups: WakeupQueue
    rate_limiter: RateLimiter
    vault: Vault
    egress_allow: AllowList


def make_resources(settings: Settings) -> Resources:
    """Make the resources. Each connects when it is first used, so the servers may still be starting."""
    broker = Broker(make_celery(settings))
    database = Database(settings.database_url.get_secret_value(), waits=REQUEST, tenant=_callers_tenant)
    store = ObjectStore(settings, silence=BRIEF_SECONDS)
    return Resources(
        settings=settings,
        database=database,
        store=store,
        submissions=Submissions(database, store, settings),
        broker=broker,
        wakeups=WakeupQueue(Wakeups(broker, database, Role.ANALYSIS)),
        rate_limiter=RateLimiter(settings.redis_url.get_secret_value(), settings.rate_limit),
        vault=Vault(settings.secret_key.get_secret_value()),
        egress_allow=AllowList.parse(settings.egress_allow),
    )


def _callers_tenant() -> UUID | None:
    """Return the tenant of the request; None before its key is authenticated."""
    who = g.get("caller") if has_app_context() else None
    return who.tenant_id if who else None


def resources() -> Resources:
    """Return the resources of the app that handles this request."""
    return cast("Resources", current_app.extensions[EXTENSION])
