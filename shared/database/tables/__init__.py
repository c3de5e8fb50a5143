"""The database's tables, by subject.

All times come from the database's clock. Only `lifecycle`, `sweeping` and `claiming` change the states of jobs.

Importing one table imports all of them, so that references by name resolve and the metadata is complete.
"""

from shared.database.tables.base import Base
from shared.database.tables.jobs import BucketWalk, Erasure, JobRow, ResultRow
from shared.database.tables.tally import TALLY_FOLDS, TALLY_LANES, TALLY_MOVES, TALLY_RUNNING
from shared.database.tables.tenants import ApiKey, Tenant
from shared.database.tables.usage import USAGE_DAYS, USAGE_ENTRIES
from shared.database.tables.webhooks import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from shared.database.tables.workers import WorkerRow

__all__ = [
    "TALLY_FOLDS",
    "TALLY_LANES",
    "TALLY_MOVES",
    "TALLY_RUNNING",
    "USAGE_DAYS",
    "USAGE_ENTRIES",
    "ApiKey",
    "Base",
    "BucketWalk",
    "Erasure",
    "JobRow",
    "ResultRow",
    "Tenant",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WorkerRow",
]
