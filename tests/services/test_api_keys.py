"""API keys on a real PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from shared.crypto import Vault
from shared.database.engine import Database
from shared.database.tables import Tenant
from shared.errors import DatabaseUnavailableError
from shared.tenants.api_keys import authenticate, create_key, list_keys, revoke_key

VAULT = Vault("a secret key for tests, 32 chars at least")


def test_a_key_opens_its_tenant_until_it_is_revoked(database: Database) -> None:
    with database.begin() as session:
        made = create_key(session, VAULT, tenant="a", priority=3)
        tenant_id = session.scalars(select(Tenant.id)).one()
        caller = authenticate(session, VAULT, made.key)
        assert caller is not None
        assert (caller.tenant_id, caller.priority) == (tenant_id, 3)
        assert revoke_key(session, made.id)
        assert authenticate(session, VAULT, made.key) is None
        assert not revoke_key(session, made.id)


def test_only_a_key_made_for_the_operator_is_the_operators(database: Database) -> None:
    with database.begin() as session:
        callers = [
            authenticate(session, VAULT, create_key(session, VAULT, tenant="a", operator=operator).key)
            for operator in (False, True)
        ]
        assert [caller and caller.operator for caller in callers] == [False, True]


def test_only_a_keyed_hash_is_stored(database: Database) -> None:
    with database.begin() as session:
        made = create_key(session, VAULT, tenant="a")
    secret = made.key.removeprefix("dd_")
    assert len(secret) == 43 + 6  # 256 bits in base 62, and the checksum
    with database.begin() as session:
        stored = session.execute(text("SELECT to_jsonb(api_keys)::text FROM api_keys")).scalar_one()
        assert secret not in stored
        assert authenticate(session, Vault("another server's secret key, 32 chars"), made.key) is None


def test_a_second_key_of_a_tenant_joins_the_first(database: Database) -> None:
    with database.begin() as session:
        create_key(session, VAULT, tenant="a", name="one")
        create_key(session, VAULT, tenant="a", name="two")
        assert [(key.name, tenant) for key, tenant in list_keys(session)] == [("one", "a"), ("two", "a")]


def test_a_database_that_is_away_is_told_in_our_words() -> None:
    database = Database("postgresql://app:x@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailableError):
        database.ping()
