"""What tests of the API act with: clients of two tenants, uploads, and the worker's part of a job's life."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from typing import Any, cast
from uuid import UUID, uuid4

import numpy as np
from apiflask import APIFlask
from PIL import Image
from sqlalchemy import text
from werkzeug.datastructures import FileStorage
from werkzeug.test import Client, TestResponse, encode_multipart

from api.dependencies import EXTENSION, Resources
from shared.database.engine import Database
from shared.domain import (
    PICTURES,
    PREVIEW,
    AnalyzedImage,
    AttemptId,
    FeatureMean,
    JobResult,
    ModelIdentity,
    Region,
    Role,
    WorkerState,
)
from shared.errors import ErrorCode, JobError
from shared.jobs import claiming, lifecycle
from shared.storage.object_store import artifact_key
from shared.tenants.api_keys import USUAL_SCOPES, Scope, create_key
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus

_NONE: Mapping[str, Any] = {}
FEATURE_MEAN = np.array([[0.0, 1.0], [2.0, 3.0]], dtype="<f4")


def png(width: int = 8, height: int = 6) -> bytes:
    """A PNG of one colour."""
    file = BytesIO()
    Image.new("RGB", (width, height), (90, 60, 200)).save(file, "PNG")
    return file.getvalue()


def picture(name: str) -> bytes:
    """The picture of this name that `ApiWorld.succeed_next` stores: 96 × 48 pixels, of another colour for each name."""
    file, red = BytesIO(), 40 * PICTURES.index(name)
    Image.new("RGB", (96, 48), (red, 60, 200)).save(file, "JPEG" if name == PREVIEW else "PNG")
    return file.getvalue()


class Answer(TestResponse):
    """A response whose JSON is read without asking whether it has any."""

    @property
    def json(self) -> Any:
        return self.get_json()


class Visitor:
    """Somebody without a key."""

    def __init__(self, app: APIFlask, headers: Mapping[str, str] | None = None) -> None:
        self._client = Client(app, Answer)
        self.headers = dict(headers or {})

    def get(self, path: str, **options: Any) -> Answer:
        return self.open(path, "GET", **options)

    def post(self, path: str, **options: Any) -> Answer:
        return self.open(path, "POST", **options)

    def delete(self, path: str) -> Answer:
        return self.open(path, "DELETE")

    def open(self, path: str, method: str, **options: Any) -> Answer:
        headers = {**self.headers, **options.pop("headers", {})}
        options.setdefault("buffered", True)  # read to the end and close, as a client on a socket does
        return cast("Answer", self._client.open(path, method=method, headers=headers, **options))


class Tenant(Visitor):
    """One tenant's view of the API."""

    def __init__(self, app: APIFlask, key: str) -> None:
        super().__init__(app, {"Authorization": f"Bearer {key}"})
        self.key = key

    def post_form(self, image: bytes | None, /, **fields: Any) -> Answer:
        """Submit as a browser's form would; `image` None leaves the file out."""
        files = {} if image is None else {"image": FileStorage(BytesIO(image), "holiday.jpg")}
        boundary, body = encode_multipart({**files, **fields})
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self.post("/v1/jobs", data=body, headers=headers)

    def submit(self, image: bytes | None = None, **fields: Any) -> str:
        """Submit an image that is accepted; return the job's id."""
        response = self.post_form(image or png(), **fields)
        assert response.status_code == 202, response.text
        return str(response.json["id"])

    def add_endpoint(self, url: str = "https://receiver.example/hook", **fields: Any) -> dict[str, Any]:
        response = self.post("/v1/webhook-endpoints", json={"url": url, **fields})
        assert response.status_code == 201, response.text
        return dict(response.json)


class ApiWorld:
    """An application, two tenants without anything, and a worker's hand."""

    def __init__(self, app: APIFlask, database: Database) -> None:
        """`database` is the API's as its owner sees it: the tests act for all tenants, and for workers."""
        self.app = app
        self.around: Resources = replace(app.extensions[EXTENSION], database=database)
        self.anonymous = Visitor(app)
        with self.around.database.begin() as session:
            session.execute(text("TRUNCATE tenants, erasures CASCADE"))
        self.one, self.other = (self.tenant(name, scopes=list(Scope)) for name in ("one", "other"))

    @property
    def operator(self) -> Tenant:
        """Somebody with an operator's key."""
        return self.tenant("operator", operator=True)

    def tenant(self, name: str, *, operator: bool = False, scopes: Collection[Scope] = USUAL_SCOPES) -> Tenant:
        with self.around.database.begin() as session:
            made = create_key(session, self.around.vault, tenant=name, operator=operator, scopes=scopes)
        return Tenant(self.app, made.key)

    def claim(self) -> tuple[UUID, UUID, int]:
        """Take the next job as a worker does that has the policy `strict`; return (tenant, job, attempt)."""
        model, lease = self.around.settings.model, timedelta(seconds=30)
        claimed = claiming.claim(self.around.database, worker="test", model=model, lease=lease, policies=["strict"])
        assert claimed is not None
        return claimed.tenant_id, claimed.id, claimed.attempt

    def succeed_next(
        self, pictures: Collection[str] = PICTURES, width: int = 8, height: int = 6, changes: Mapping[str, Any] = _NONE
    ) -> str:
        """End the next job with a verdict, `changes` in it, and stored pictures; return its id."""
        tenant_id, job_id, attempt = self.claim()
        artifacts = {
            name: self.around.store.put_artifact(artifact_key(tenant_id, job_id, attempt, name), picture(name))
            for name in pictures
        }
        result = JobResult(
            prediction="FAKE",
            confidence=0.87,
            probability_fake=0.87,
            raw_probability_fake=0.87,
            threshold=0.5,
            policy=None,
            stability=None,
            processing_time=0.2,
            device_seconds=0.25,
            image=AnalyzedImage(width, height, Region(1, 0, 6, 6), "image/png", "PNG", None),
            model=ModelIdentity("DISTILDIRE-DEMO", "0" * 64, demonstration=True, device="cpu", precision="fp32"),
            timings={"decoding": 0.1},
            caveats=(),
            feature_mean=FeatureMean(FEATURE_MEAN.tobytes(), 2, 2),
            artifacts=artifacts,
        )
        lifecycle.succeed(self.around.database, AttemptId(job_id, attempt), replace(result, **changes))
        return str(job_id)

    @contextmanager
    def working(self, policies: Sequence[str] = ()) -> Iterator[None]:
        """Have a worker be ready that has these policies."""
        worker = replace(WorkerIdentity.of_this_process(Role.ANALYSIS), id=str(uuid4()))
        status = WorkerStatus(WorkerState.READY, model=self.around.settings.model, policies=policies)
        registry.beat(self.around.database, worker, status, age=timedelta(0))
        yield
        registry.leave(self.around.database, worker)

    def fail_next(self, code: ErrorCode = ErrorCode.CORRUPT_IMAGE) -> str:
        """End the next job with an error; return its id."""
        _, job_id, attempt = self.claim()
        lifecycle.fail(self.around.database, AttemptId(job_id, attempt), JobError(code))
        return str(job_id)
