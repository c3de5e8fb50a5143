"""API keys: made once, shown once, kept as a keyed hash."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.crypto import Vault
from shared.database.row_level_security import show_key
from shared.database.tables import ApiKey, Tenant

#: Lets scanners of source code recognise a leaked key.
KEY_PREFIX = "dd_"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    key_id: UUID
    tenant_id: UUID
    priority: int
    operator: bool = False
    """Whether they may also see and do what is the operator's: workers, and what concerns all tenants."""


@dataclass(frozen=True)
class NewKey:
    """A key at its only moment in the clear."""

    id: UUID
    key: str


def create_key(
    session: Session,
    vault: Vault,
    *,
    tenant: str,
    name: str = "default",
    priority: int = 0,
    operator: bool = False,
) -> NewKey:
    """Make a key of 256 random bits for `tenant`, which is made where it does not exist.

    Jobs that are submitted with a key of higher `priority` are taken first, whoever waits. An `operator`'s key opens
    its tenant as any other does, and the routes that are the operator's.
    """
    session.execute(insert(Tenant).values(name=tenant).on_conflict_do_nothing(index_elements=["name"]))
    tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == tenant)).one()
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    row = ApiKey(
        tenant_id=tenant_id,
        name=name,
        hash=vault.keyed_hash(key),
        hint=key[-4:],
        priority=priority,
        operator=operator,
    )
    session.add(row)
    session.flush()
    return NewKey(row.id, key)


def authenticate(session: Session, vault: Vault, key: str) -> Caller | None:
    """Return whose key this is; None for an unknown or revoked one.

    The look-up compares keyed hashes inside an index: what its time could tell says nothing about a key.
    """
    key_hash = vault.keyed_hash(key)
    show_key(session, key_hash)
    found = session.execute(
        select(ApiKey.id, ApiKey.tenant_id, ApiKey.priority, ApiKey.operator).where(
            ApiKey.hash == key_hash, ApiKey.revoked_at.is_(None)
        )
    ).one_or_none()
    return Caller(found.id, found.tenant_id, found.priority, found.operator) if found else None


def list_keys(session: Session) -> list[tuple[ApiKey, str]]:
    """Return every key's row with its tenant's name, oldest first."""
    rows = session.execute(select(ApiKey, Tenant.name).join(Tenant).order_by(ApiKey.created_at))
    return [(key, tenant) for key, tenant in rows]


def revoke_key(session: Session, key_id: UUID) -> bool:
    """End a key at once; return whether there was such a living key."""
    ended = session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(ApiKey.id)
    )
    return ended.one_or_none() is not None
