"""A deployment under load: what every run and every measure begins with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from shared.crypto import Vault
from shared.database.engine import Database
from shared.tenants.api_keys import create_key
from shared.tenants.tenants import change_tenant
from tests.chaos.deployment import QUICK, Clocks, Deployment, running
from tests.chaos.history import History
from tests.chaos.load import JUDGED_BY_POLICY, TENANTS, Load
from tests.chaos.observer import Observer
from tests.chaos.receiver import endpoints_of

_TICK_SECONDS = 0.02


@dataclass
class Experiment:
    """The service, its clients, and who watches them."""

    deployment: Deployment
    load: Load
    history: History
    observer: Observer
    endpoints: Mapping[str, Sequence[str]]

    def tick(self) -> None:
        """Let a moment pass; processes that ended meanwhile are started again."""
        self.deployment.restart_ended()
        time.sleep(_TICK_SECONDS)

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.wait(lambda: False, seconds)

    def wait(self, condition: Callable[[], object], seconds: float) -> bool:
        """Let time pass until the condition holds; False where it does not within `seconds`."""
        give_up_at = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > give_up_at:
                return False
            self.tick()
        return True

    def ask(self, statement: str, *values: object) -> Any:
        """Return the one value that a statement yields; None while PostgreSQL is away."""
        with (
            contextlib.suppress(psycopg2.Error),
            contextlib.closing(self.deployment.postgres()) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, values)
            return (cursor.fetchone() or (None,))[0]
        return None


@contextmanager
def loaded(folder: Path, *, seed: int, rate: float, clocks: Clocks = QUICK) -> Iterator[Experiment]:
    """Run a deployment under a load of `rate` submissions a second until the block ends."""
    with running(folder, seed, clocks) as deployment:
        endpoints = endpoints_of(deployment.receiver, TENANTS)
        keys = _tenants(deployment, endpoints)
        history, observer = History(folder / "history.jsonl"), Observer(deployment)
        load = Load(deployment.api_url, keys, history, seed=seed, rate=rate)
        observer.start()
        load.start()
        try:
            yield Experiment(deployment, load, history, observer, endpoints)
        finally:
            load.close()
            observer.close()
            history.close()


def _tenants(deployment: Deployment, endpoints: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Make the tenants with their webhook endpoints; return their keys by name."""
    settings = deployment.settings
    with Database(settings.database_url.get_secret_value(), pool_size=1) as database, database.begin() as session:
        vault = Vault(settings.secret_key.get_secret_value())
        keys = {tenant: create_key(session, vault, tenant=tenant).key for tenant in endpoints}
        change_tenant(session, JUDGED_BY_POLICY, {"policy": "all-fake"})
    for tenant, urls in endpoints.items():
        for url in urls:
            answer = httpx.post(
                f"{deployment.api_url}/v1/webhook-endpoints",
                json={"url": url},
                headers={"Authorization": f"Bearer {keys[tenant]}"},
                trust_env=False,
            )
            answer.raise_for_status()
    return keys
