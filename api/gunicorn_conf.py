"""How gunicorn runs the API. `api/__main__.py` reads it, and so does gunicorn's own command where that is used."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from shared.environment import hide_from_libraries
from shared.settings import load_settings

hide_from_libraries()
_settings = load_settings()

bind = _settings.bind
worker_class = "api.gunicorn_worker.BoundedThreadWorker"  # threads: requests wait for PostgreSQL and the store
workers = _settings.api_processes
# Most threads wait for a client, which costs little. The worker class limits how many work at the same moment.
threads = 256
worker_connections = 1000  # with the idle ones that are kept alive
preload_app = False  # each worker makes its own connections, which would not survive a fork
timeout = 60  # of a worker's heartbeat, not of a request
graceful_timeout = 25  # uploads in progress finish; most supervisors kill a process 30 s after they stop it
keepalive = 15
sendfile = False  # it waits for the client in the kernel, where the worker class cannot release the turn
backlog = 512
max_requests = 0  # never restart a worker: if one needs that to stay healthy, it has a bug to be fixed

# A request line holds a cursor and two filters; headers hold a key.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

accesslog = None  # api/request_hooks.py writes one line a request, without query values
errorlog = "-"
control_socket_disable = True  # processes are managed from outside
if Path("/dev/shm").is_dir():  # noqa: S108  # a disk can block a heartbeat until gunicorn takes the worker for dead
    worker_tmp_dir = "/dev/shm"  # noqa: S108

# Each worker writes its metrics into files here, so that any worker can answer /metrics for all. prometheus_client
# reads this variable when it is imported, so nothing of api/ may be imported above.
_metrics_dir = Path(tempfile.mkdtemp(prefix="distildire-metrics-"))
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_dir)


def child_exit(_server: Any, worker: Any) -> None:
    """Drop the gauges of a worker that ended, and keep its counters."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:
    """Delete the metrics files."""
    shutil.rmtree(_metrics_dir, ignore_errors=True)
