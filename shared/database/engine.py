"""Connections to PostgreSQL. Every wait has a limit."""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import psycopg2
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    STATUS_SETUP,
    set_wait_callback,
)
from psycopg2.extensions import connection as Psycopg2Connection  # noqa: N812  # a class in spite of its name
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from shared.database.row_level_security import SHOW_TENANT
from shared.errors import DatabaseUnavailableError

_CONNECT_SECONDS = 3


@dataclass(frozen=True)
class Waits:
    """How long connections of one kind wait. The server itself ends statements that take longer, unless it hangs."""

    application: str
    """Their `application_name`, which `pg_stat_activity` shows."""
    statement_seconds: float
    lock_seconds: float

    @property
    def silence_seconds(self) -> float:
        """The client stops waiting for the server after this time without an answer."""
        return self.statement_seconds + 1

    @property
    def settings(self) -> str:
        """The statements that set the limits for one transaction only."""
        statement, lock = (f"{seconds * 1000:.0f}" for seconds in (self.statement_seconds, self.lock_seconds))
        return (
            f"SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}; SET LOCAL timezone = 'UTC';"
            f" SET LOCAL idle_in_transaction_session_timeout = {statement}"
        )


#: For workers: a worker that gives up loses what it has computed, so it waits longer.
WORK = Waits("distildire-service", statement_seconds=15, lock_seconds=5)
#: For requests: a client wants a definite answer soon, and may send the request again.
REQUEST = Waits("distildire-request", statement_seconds=5, lock_seconds=1.5)


class Database:
    """The connection pool of one process, closed at the end of a `with` block.

    Create it after a fork, never before: connections do not survive a fork.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        waits: Waits = WORK,
        tenant: Callable[[], UUID | None] = lambda: None,
    ) -> None:
        """Open no connection yet; later, at most twice `pool_size` connections.

        `tenant` is called at the beginning of each transaction. Row-level security shows the transaction only the rows
        of the tenant that it returns.
        """
        self.engine: Engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg2"),
            hide_parameters=True,  # errors are logged; the parameters of statements are tenants' data
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=_CONNECT_SECONDS,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "keepalives_idle": 10,
                "tcp_user_timeout": 10_000,
                "application_name": waits.application,
            },
        )
        settings = text(waits.settings)
        settings_and_tenant = text(f"{waits.settings}; {SHOW_TENANT}")

        @event.listens_for(self.engine, "begin")
        def _set(connection: Connection) -> None:
            # Not when the connection opens: PgBouncer refuses that, and gives each transaction another connection.
            if (tenant_id := tenant()) is None:
                connection.execute(settings)
            else:
                connection.execute(settings_and_tenant, {"tenant": str(tenant_id)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Yield a session inside one transaction, committed at the end.

        Raises:
            DatabaseUnavailableError: the server is down or went away; as far as is known, nothing was committed.

        """
        try:
            with self._begun() as session:  # which rolls back what is not committed
                yield session
                session.commit()
        except PoolTimeoutError as error:
            raise DatabaseUnavailableError from error
        except DBAPIError as error:
            if _is_outage(error):
                raise DatabaseUnavailableError from error
            raise

    def _begun(self) -> Session:
        """Return a session whose transaction has begun, so the server has answered.

        If the server has closed the pooled connection, for example in a restart, SQLAlchemy discards all pooled
        connections and this opens a new one. A restart then costs a reconnect, not a failed request.
        """
        try:
            return _open(self.engine)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return _open(self.engine)

    def ping(self) -> None:
        """Raise `DatabaseUnavailableError` if the server does not answer."""
        with self.begin():
            pass  # the transaction begins only if the server answers

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _open(engine: Engine) -> Session:
    session = Session(engine, expire_on_commit=False)
    try:
        session.connection()
    except BaseException:
        session.close()
        raise
    return session


def _wait(connection: Psycopg2Connection) -> None:
    """Wait for the server for a limited time. By itself, libpq waits for ever if the server hangs.

    Raises:
        psycopg2.OperationalError: the server did not answer in time; psycopg2 closes the connection.

    """
    seconds = _silence_of(connection)
    milliseconds = seconds * 1000 if seconds else None
    while (state := connection.poll()) != POLL_OK:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not poll.poll(milliseconds):
            raise psycopg2.OperationalError(f"the server did not answer for {seconds:.0f} s")


def _silence_of(connection: Psycopg2Connection) -> float | None:
    """Return how many seconds to wait; None (no limit) for connections outside `Database`, such as a migration's."""
    for waits in (WORK, REQUEST):
        if waits.application in connection.dsn:
            return _CONNECT_SECONDS if connection.status == STATUS_SETUP else waits.silence_seconds
    return None


set_wait_callback(_wait)  # for every connection of the process: psycopg2 has no narrower setting


def reason(error: DBAPIError) -> str:
    """Return a sentence that says why no connection could be made. It quotes libpq, which never repeats a password."""
    said = re.sub(r"\s*FATAL:\s*", " ", str(error.orig)).strip().splitlines() or [type(error.orig).__name__]
    return f"The database cannot be reached: {said[0]}"


def _is_outage(error: DBAPIError) -> bool:
    """Whether the server is down, as opposed to a wrong statement, by the class of the SQLSTATE if there is one."""
    state = getattr(error.orig, "pgcode", None)
    if state is None:  # libpq itself failed: refused, reset, timed out
        return error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "InterfaceError")
    # 40: rolled back, for example to end a deadlock; a retry may succeed. 53: out of resources, for example disk space.
    # 25006: the server only accepts reads, as a replica does before it becomes the primary.
    return state[:2] in ("08", "40", "53", "57", "58") or state in ("55P03", "25006")
