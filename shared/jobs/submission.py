"""The only way in for jobs, submitted or replayed: check capacity, store the image, commit the row, in that order."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from io import BytesIO
from typing import BinaryIO
from uuid import UUID, uuid4

import structlog

from shared.database.engine import Database
from shared.database.tables import JobRow
from shared.domain import NewJob
from shared.errors import DatabaseUnavailableError, DistildireError, KeyTakenError, StoreUnavailableError
from shared.jobs import lifecycle
from shared.jobs.admission import Admission, OpenLimits
from shared.jobs.idempotency import earlier_job, key_is_known
from shared.jobs.options import from_columns
from shared.settings import Settings
from shared.storage.object_store import ObjectStore, source_key
from shared.workers.registry import policy_is_served

_log = structlog.get_logger(__name__)


class UnknownPolicyError(DistildireError):
    """The policy is not one that the workers have. Ask the operator for its name, or leave it out."""


class Submissions:
    """Accepts jobs. A process has one."""

    def __init__(self, database: Database, store: ObjectStore, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._model = settings.model
        self._deadline = timedelta(hours=settings.deadline_hours)
        limits = OpenLimits(settings.max_open_jobs, settings.max_open_jobs_per_tenant)
        self._admission = Admission(database, limits)

    def check_capacity(self, tenant_id: UUID, idempotency_key: str | None) -> None:
        """Raise `FullError` if too many jobs are open for a new one. Call it before the image is read.

        A known idempotency key makes no new job, so its submission passes however full the service is.
        """
        with self._database.begin() as session:
            if idempotency_key is not None and key_is_known(session, tenant_id, idempotency_key):
                return
            self._admission.check_tenant(session, tenant_id)
        self._admission.check_service()

    def accept(self, new: NewJob, image: BinaryIO) -> JobRow:
        """Return the job of this submission: a new one, or the one that an earlier try made.

        Raises:
            FullError: too many jobs are open; nothing is stored.
            UnknownPolicyError: there are workers, and none has the policy; nothing is stored.
            KeyReusedError: the idempotency key came with another image or other options.
            StoreUnavailableError, DatabaseUnavailableError: a server is down; as far as is known, nothing was accepted.

        """
        try:
            return self._earlier(new) or self._create(new, image)
        except KeyTakenError:  # by another try of this submission, at the same moment
            job = self._earlier(new)
            if job is None:
                raise
            return job

    def replay(
        self, ended: JobRow, *, priority: int, key_id: UUID | None = None, idempotency_key: str | None = None
    ) -> JobRow:
        """Run `ended` again, as a new job with its image and options; `ended` stays as it is.

        The image is copied. Each job owns its bytes, so either can be deleted without regard to the other.

        Raises:
            FullError, UnknownPolicyError, KeyReusedError, StoreUnavailableError, DatabaseUnavailableError: as `accept`.
            ObjectMissingError: the image is no longer in the store.

        """
        job_id = uuid4()
        new = NewJob(
            id=job_id,
            tenant_id=ended.tenant_id,
            source_key=source_key(ended.tenant_id, job_id),
            source_sha256=ended.source_sha256,
            source_bytes=ended.source_bytes,
            media_type=ended.media_type,
            options=from_columns(ended),
            priority=priority,
            key_id=key_id,
            idempotency_key=idempotency_key,
            replay_of=ended.id,
        )
        self.check_capacity(ended.tenant_id, idempotency_key)
        image = self._store.get(ended.source_key)
        if hashlib.sha256(image).hexdigest() != ended.source_sha256:
            raise StoreUnavailableError("The store returned other bytes than were uploaded. Try again.")
        return self.accept(new, BytesIO(image))

    def _earlier(self, new: NewJob) -> JobRow | None:
        if new.idempotency_key is None:
            return None
        with self._database.begin() as session:
            return earlier_job(session, new)

    def _create(self, new: NewJob, image: BinaryIO) -> JobRow:
        """Store the image, then commit the job: a committed job's image is always there."""
        self._admission.check_service()
        self._check_policy(new)
        self._store.put(new.source_key, image, new.source_bytes, new.media_type)
        try:
            with self._database.begin() as session:
                self._admission.hold_tenant(session, new.tenant_id)
                return lifecycle.create(session, new, deadline=self._deadline)
        except DatabaseUnavailableError:
            # The connection may have broken after the commit. A job without its image is worse than an image without
            # a job, which retention deletes after a day.
            #: The connection to PostgreSQL broke while a job was committed. If the job was not written, its image is
            #: deleted after a day.
            _log.warning("upload_may_be_left_over", key=new.source_key)
            raise
        except Exception:
            self._discard(new.source_key)
            raise

    def _check_policy(self, new: NewJob) -> None:
        """Refuse a policy that no worker has. While there are no workers, the one that claims the job decides."""
        policy, model = new.options.policy, new.options.model or self._model
        if policy is None:
            return
        with self._database.begin() as session:
            if policy_is_served(session, policy, model) is False:
                raise UnknownPolicyError

    def _discard(self, key: str) -> None:
        """Delete the image of a job that was not committed; if the store is down, retention deletes it after a day."""
        try:
            self._store.delete(key)
        except StoreUnavailableError:
            #: A job was not accepted, and the store did not delete its image. Retention deletes it after a day.
            _log.warning("upload_left_over", key=key)
