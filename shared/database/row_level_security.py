"""Row-level security: PostgreSQL itself shows a transaction only the rows of the tenant that it was begun for.

It applies to every connection except the table owner's, so to the roles below; migrations/roles.py grants them what
they need. It is a second protection beside the conditions of the queries. A transaction of the API that names no tenant
sees no tenant's rows.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

#: In each transaction, it sees the rows of one tenant and the API key of the request.
API_ROLE = "distildire_api"
#: It sees the jobs and webhooks of all tenants, and no API keys.
WORKER_ROLE = "distildire_worker"

# The policies of migration 0007 read these settings, which last until the transaction ends.
_KEY_HASH = "distildire.key_hash"
#: Lets a transaction see the rows of `:tenant` and of no other tenant.
SHOW_TENANT = "SET LOCAL distildire.tenant = :tenant"


def show_key(session: Session, key_hash: bytes) -> None:
    """Let this transaction see the API key with this keyed hash. The hash of a key is computed from the key itself."""
    session.execute(select(func.set_config(_KEY_HASH, key_hash.hex(), True)))  # noqa: FBT003  # SQL's third argument
