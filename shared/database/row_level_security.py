"""The second wall between tenants: PostgreSQL itself shows a transaction only the rows of whom it was begun for.

It stands for every connection that is not the tables' owner's, so for the roles below; migrations/roles.py grants
them what they need. A transaction that names no tenant sees no tenant's row.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

#: Sees the rows of one tenant in each transaction, and the key that a request was sent with.
API_ROLE = "distildire_api"
#: Takes the jobs and webhooks of all tenants in turn; sees no key.
WORKER_ROLE = "distildire_worker"

# Migration 0007's policies read these settings, which end with the transaction.
_KEY_HASH = "distildire.key_hash"
#: Lets a transaction see the rows of `:tenant`, and no other's.
SHOW_TENANT = "SET LOCAL distildire.tenant = :tenant"


def show_key(session: Session, key_hash: bytes) -> None:
    """Let this transaction see the API key of this keyed hash, which whoever knows the key can compute."""
    session.execute(select(func.set_config(_KEY_HASH, key_hash.hex(), True)))  # noqa: FBT003  # SQL's third argument
