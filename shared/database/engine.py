"""Connections to PostgreSQL, with every wait bounded."""

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
    """How long connections of one kind wait. The server ends statements by itself, unless it is frozen or away."""

    application: str
    """As `pg_stat_activity` shows them."""
    statement_seconds: float
    lock_seconds: float

    @property
    def silence_seconds(self) -> float:
        """After so long without a word, the server is not waited for."""
        return self.statement_seconds + 1

    @property
    def settings(self) -> str:
        """The statements that give a transaction its settings, and nothing to what comes after it."""
        statement, lock = (f"{seconds * 1000:.0f}" for seconds in (self.statement_seconds, self.lock_seconds))
        return (
            f"SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}; SET LOCAL timezone = 'UTC';"
            f" SET LOCAL idle_in_transaction_session_timeout = {statement}"
        )


#: A worker that gives up drops what it has computed.
WORK = Waits("distildire-service", statement_seconds=15, lock_seconds=5)
#: Whoever sent a request wants a definite answer soon, and may send it again.
REQUEST = Waits("distildire-request", statement_seconds=5, lock_seconds=1.5)


class Database:
    """One process's pool, closed at the end of a `with` block.

    Make it after a fork, never before: connections do not survive one.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        waits: Waits = WORK,
        tenant: Callable[[], UUID | None] = lambda: None,
    ) -> None:
        """Connect when asked, at most to twice `pool_size` connections.

        `tenant` says at the beginning of each transaction whose rows it may see, where PostgreSQL guards them.
        """
        self.engine: Engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg2"),
            hide_parameters=True,  # errors are logged; their statements' values are tenants' data
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
            # Not at the start of the connection: PgBouncer refuses that, and hands connections on between transactions.
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
            DatabaseUnavailableError: the server is not there, or went away; nothing was committed that is known of.

        """
        try:
            with self._begun() as session:  # which takes back what is not committed
                yield session
                session.commit()
        except PoolTimeoutError as error:
            raise DatabaseUnavailableError from error
        except DBAPIError as error:
            if _is_outage(error):
                raise DatabaseUnavailableError from error
            raise

    def _begun(self) -> Session:
        """Return a session whose transaction has begun: the server has answered.

        A connection that has been closed meanwhile, as by a server that was restarted, takes those that wait in the
        pool with it, and a new one is made: that costs a reconnect, not a failed request.
        """
        try:
            return _open(self.engine)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return _open(self.engine)

    def ping(self) -> None:
        """Ask the server for anything; raise `DatabaseUnavailableError` where it does not answer."""
        with self.begin():
            pass  # the server has answered when it begins

    def close(self) -> None:
        """Give all connections back."""
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
    """Wait for the server, but not for ever: libpq alone would, for a server that is frozen with its connections open.

    Raises:
        psycopg2.OperationalError: it kept silent; psycopg2 closes the connection.

    """
    seconds = _silence_of(connection)
    milliseconds = seconds * 1000 if seconds else None
    while (state := connection.poll()) != POLL_OK:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not poll.poll(milliseconds):
            raise psycopg2.OperationalError(f"the server kept silent for {seconds:.0f} s")


def _silence_of(connection: Psycopg2Connection) -> float | None:
    """Return seconds; None for a connection that is not `Database`'s: a migration may take its time."""
    for waits in (WORK, REQUEST):
        if waits.application in connection.dsn:
            return _CONNECT_SECONDS if connection.status == STATUS_SETUP else waits.silence_seconds
    return None


set_wait_callback(_wait)  # for every connection of the process; psycopg2 knows no other way


def reason(error: DBAPIError) -> str:
    """Return in a sentence why no connection could be made, as libpq tells it, which never repeats a password."""
    said = re.sub(r"\s*FATAL:\s*", " ", str(error.orig)).strip().splitlines() or [type(error.orig).__name__]
    return f"The database cannot be reached: {said[0]}"


def _is_outage(error: DBAPIError) -> bool:
    """Tell a server that is away from a statement that is wrong, by SQLSTATE class where there is one."""
    state = getattr(error.orig, "pgcode", None)
    if state is None:  # libpq itself failed: refused, reset, timed out
        return error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "InterfaceError")
    # 40: rolled back to end a deadlock; whoever may try again should. 53: a full disk, among others. 25006: only reads
    # are taken, as by a replica before it becomes the primary.
    return state[:2] in ("08", "40", "53", "57", "58") or state in ("55P03", "25006")
