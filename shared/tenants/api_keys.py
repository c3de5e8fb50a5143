"""API keys: created once, shown once, stored as a keyed hash."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.crypto import Vault
from shared.database.row_level_security import show_key
from shared.database.tables import ApiKey, Tenant
from shared.errors import DistildireError
from shared.tenants.key_format import could_be_key, make_key, shown_prefix

#: When a key was last used is written down at most so often.
_USE_IS_NOTED = timedelta(minutes=1)


class Scope(StrEnum):
    """What a key may do; each route of the API names one."""

    SUBMIT = "submit"
    """Submit, cancel, replay and delete jobs."""
    READ = "read"
    """Read jobs, their results and their pictures."""
    WEBHOOKS = "webhooks"
    """Read and change webhook endpoints and deliveries."""
    REVIEW = "review"
    """Read and write what people decided."""
    ADMIN = "admin"
    """Make, list, rotate and revoke keys."""


#: What a key may do if nothing else is said: everything but make other keys.
USUAL_SCOPES = (Scope.SUBMIT, Scope.READ, Scope.WEBHOOKS, Scope.REVIEW)


class ScopeError(DistildireError):
    """A key may not have more scopes than the key that makes it."""


class ExpiryError(DistildireError):
    """A key must end in the future, and not later than the key that makes it."""


@dataclass(frozen=True)
class Caller:
    """The tenant and rights of the API key that sent a request."""

    key_id: UUID
    tenant_id: UUID
    priority: int
    operator: bool = False
    """Whether they may also see and do what is the operator's: workers, and what concerns all tenants."""
    scopes: frozenset[Scope] = frozenset(Scope)
    expires_at: datetime | None = None


@dataclass(frozen=True)
class NewKey:
    """A new key in clear text. It is never shown again."""

    row: ApiKey
    key: str

    @property
    def id(self) -> UUID:
        """What lists call it."""
        return self.row.id


def create_key(
    session: Session,
    vault: Vault,
    *,
    tenant: str,
    name: str = "default",
    priority: int = 0,
    operator: bool = False,
    scopes: Collection[Scope] = USUAL_SCOPES,
    expires_at: datetime | None = None,
) -> NewKey:
    """Create a key of 256 random bits for `tenant`; create the tenant too if it does not exist.

    Workers take jobs of keys with a higher `priority` first, whichever tenants wait. An `operator` key gives access to
    its tenant, like any other key, and to the operator's routes.
    """
    session.execute(insert(Tenant).values(name=tenant).on_conflict_do_nothing(index_elements=["name"]))
    tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == tenant)).one()
    row = ApiKey(tenant_id=tenant_id, name=name, priority=priority, operator=operator, expires_at=expires_at)
    return _write(session, vault, row, scopes)


def create_key_for(
    session: Session, vault: Vault, maker: Caller, *, name: str, scopes: Collection[Scope], expires_at: datetime | None
) -> NewKey:
    """Make a key for the tenant of another one, which may do no more than that one and ends no later.

    Args:
        session: in a transaction of the maker's tenant.
        vault: hashes the key.
        maker: whose key makes the new one.
        name: what the new key is for.
        scopes: what it may do.
        expires_at: when it ends; None: when the maker's does.

    Raises:
        ScopeError: the maker has not all of these scopes.
        ExpiryError: the end has passed, or is after that of the maker's key.

    """
    if not maker.scopes.issuperset(scopes):
        raise ScopeError
    end = maker.expires_at if expires_at is None else expires_at
    now = session.scalars(select(func.now())).one()
    if end is not None and (end <= now or (maker.expires_at is not None and end > maker.expires_at)):
        raise ExpiryError
    row = ApiKey(tenant_id=maker.tenant_id, name=name, priority=maker.priority, expires_at=end)
    return _write(session, vault, row, scopes)


def rotate_key(session: Session, vault: Vault, maker: Caller, key_id: UUID, *, overlap: timedelta) -> NewKey | None:
    """Make a key that does what another does, and end that one after `overlap`; None: the tenant has no such key.

    Only the operator rotates an operator's key.

    Raises:
        ScopeError: the other key may do more than the maker's.

    """
    wanted = _living(maker.tenant_id).where(ApiKey.id == key_id, ~ApiKey.operator, _not_ended())
    old = session.scalars(wanted.with_for_update()).one_or_none()
    if old is None:
        return None
    if not maker.scopes.issuperset(old.scopes):
        raise ScopeError
    row = ApiKey(tenant_id=maker.tenant_id, name=old.name, priority=old.priority, expires_at=old.expires_at)
    made = _write(session, vault, row, [Scope(scope) for scope in old.scopes])
    end = session.scalars(select(func.now() + overlap)).one()
    old.expires_at = end if old.expires_at is None else min(end, old.expires_at)
    session.flush()
    return made


def authenticate(session: Session, vault: Vault, key: str) -> Caller | None:
    """Return whose key this is; None for one that is unknown, revoked or past its end. Note that it was used.

    The lookup compares keyed hashes in an index, so its duration reveals nothing about a key.
    """
    if not could_be_key(key):
        return None
    key_hash = vault.keyed_hash(key)
    show_key(session, key_hash)
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - _USE_IS_NOTED)
    found = session.execute(
        select(
            ApiKey.id, ApiKey.tenant_id, ApiKey.priority, ApiKey.operator, ApiKey.scopes, ApiKey.expires_at,
            stale.label("stale"),
        ).where(
            ApiKey.hash == key_hash,
            ApiKey.revoked_at.is_(None),
            _not_ended(),
        )
    ).one_or_none()  # fmt: skip
    if found is None:
        return None
    if found.stale:
        # Of requests that come at once one writes, and none waits for it.
        free = select(ApiKey.id).where(ApiKey.hash == key_hash, stale).with_for_update(skip_locked=True)
        session.execute(update(ApiKey).where(ApiKey.id.in_(free)).values(last_used_at=func.now()))
    scopes = frozenset(scope for scope in Scope if scope in found.scopes)  # a later release may know others
    return Caller(found.id, found.tenant_id, found.priority, found.operator, scopes, found.expires_at)


def list_keys(session: Session) -> list[tuple[ApiKey, str]]:
    """Return the row of every key with its tenant's name, oldest first."""
    rows = session.execute(select(ApiKey, Tenant.name).join(Tenant).order_by(ApiKey.created_at))
    return [(key, tenant) for key, tenant in rows]


def list_living_keys(session: Session, tenant_id: UUID) -> Sequence[ApiKey]:
    """Return a tenant's keys that are not revoked, those past their end included, oldest first."""
    return session.scalars(_living(tenant_id).order_by(ApiKey.created_at, ApiKey.id)).all()


def revoke_key(session: Session, key_id: UUID, tenant_id: UUID | None = None) -> bool:
    """End a key at once, of whatever tenant or of this one; return whether there was such a living key."""
    living = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    if tenant_id is not None:
        living = living.where(ApiKey.tenant_id == tenant_id)
    ended = session.execute(living.values(revoked_at=func.now()).returning(ApiKey.id))
    return ended.one_or_none() is not None


def _living(tenant_id: UUID) -> Select[ApiKey]:
    return select(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.revoked_at.is_(None))


def _not_ended() -> ColumnElement[bool]:
    return or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())


def _write(session: Session, vault: Vault, row: ApiKey, scopes: Collection[Scope]) -> NewKey:
    """Give a row its key, and write it."""
    key = make_key()
    row.hash, row.hint, row.prefix = vault.keyed_hash(key), key[-4:], shown_prefix(key)
    row.scopes = [scope for scope in Scope if scope in scopes]
    session.add(row)
    session.flush()
    return NewKey(row, key)
