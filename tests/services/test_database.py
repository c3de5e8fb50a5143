"""What the server refuses for reasons of its own is an outage, which passes, and no fault of the statement."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database.engine import Database
from shared.errors import DatabaseUnavailableError


@pytest.mark.parametrize("state", ["53100", "57P01", "40P01", "55P03"])
def test_full_disks_shutdowns_deadlocks_and_locks_are_outages(database: Database, state: str) -> None:
    raised = text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")
    with pytest.raises(DatabaseUnavailableError), database.begin() as session:
        session.execute(raised)


def test_a_server_that_takes_only_reads_is_an_outage_for_who_writes(database: Database) -> None:
    with database.begin() as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        assert session.scalar(text("SELECT 1")) == 1
    with pytest.raises(DatabaseUnavailableError), database.begin() as session:
        session.execute(text("SET TRANSACTION READ ONLY; DELETE FROM workers"))


def test_a_statement_that_is_wrong_is_no_outage(database: Database) -> None:
    with pytest.raises(DBAPIError), database.begin() as session:
        session.execute(text("SELECT FROM nowhere"))


def test_a_connection_that_the_server_has_closed_costs_a_reconnect_and_no_failure(
    database: Database, empty_database: str
) -> None:
    with database.begin() as session:
        ended = session.scalar(text("SELECT pg_backend_pid()"))
    with Database(empty_database) as operator, operator.begin() as session:
        assert session.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": ended})
    with database.begin() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) != ended


def test_what_a_block_that_fails_has_written_is_taken_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        _write_and_fail(database)
    with database.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM tenants")) == 0


def _write_and_fail(database: Database) -> None:
    with database.begin() as session:
        session.execute(text("INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'gone')"))
        raise ZeroDivisionError
