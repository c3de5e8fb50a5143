"""A second S3 server to hold the object store's client to: JuiceFS's gateway, descended from MinIO's own front end."""

from __future__ import annotations

import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException
from pydantic import SecretStr

from deploy.local.processes import ChildProcess, Program
from shared.settings import Settings
from tests.support.ports import free_ports

_ACCESS_KEY, _SECRET_KEY, _BUCKET = "an-access-key", "a-secret-key", "distildire"


@contextmanager
def juicefs_gateway(folder: Path, settings: Settings) -> Iterator[Settings]:
    """Yield `settings` of a gateway that keeps its objects below `folder`, and ends with the context."""
    binary = Path(sysconfig.get_path("scripts")) / "juicefs"
    volume = f"sqlite3://{folder}/index.db"
    subprocess.run(
        [binary, "format", "--storage", "file", "--bucket", f"{folder}/objects/", volume, "contract"],
        check=True,
        capture_output=True,
    )
    port, metrics = free_ports(2)
    quiet = ("--no-banner", "--no-usage-report", "--no-bgjob", "--cache-dir", "memory", "--cache-size", "50")
    program = Program(
        name="juicefs",
        command=[
            *(str(binary), "gateway", "--multi-buckets", *quiet),
            *("--metrics", f"127.0.0.1:{metrics}", volume, f"127.0.0.1:{port}"),
        ],
        log=folder / "juicefs.log",
        environment={"MINIO_ROOT_USER": _ACCESS_KEY, "MINIO_ROOT_PASSWORD": _SECRET_KEY, "HOME": str(folder)},
        death_signal=signal.SIGKILL,
        stop_seconds=5,
    )
    child = ChildProcess(program)
    try:
        child.wait_until(lambda: _has_bucket(port), seconds=30)
        yield settings.model_copy(
            update={
                "s3_endpoint": f"http://127.0.0.1:{port}",
                "s3_access_key": SecretStr(_ACCESS_KEY),
                "s3_secret_key": SecretStr(_SECRET_KEY),
                "s3_bucket": _BUCKET,
            }
        )
    finally:
        child.stop()


def _has_bucket(port: int) -> bool:
    """Whether the gateway answers and has the bucket; makes it when it does."""
    with urllib3.PoolManager(timeout=2, retries=False) as pool:
        client = Minio(
            f"127.0.0.1:{port}",
            access_key=_ACCESS_KEY,
            secret_key=_SECRET_KEY,
            secure=False,
            region="us-east-1",
            http_client=pool,
        )
        try:
            if not client.bucket_exists(_BUCKET):
                client.make_bucket(_BUCKET)
        except (MinioException, urllib3.exceptions.HTTPError):
            return False
    return True
