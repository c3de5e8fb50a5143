"""The Celery application of every worker and of beat, as Celery imports it (`worker.tasks:app`), and its tasks.

Importing this module makes the process: it installs the handler of SIGTERM, reads the settings and connects Celery's
signals. What a task does is in the services of its worker (`worker.celery_process.Process`).
"""

from __future__ import annotations

from worker.process.shutdown import install

shutdown = install()  # first: the imports below take seconds, and SIGTERM must end this process in order meanwhile

from shared.broker.celery_app import ANALYZE, DELIVER, SWEEP  # noqa: E402
from shared.settings import CommonSettings  # noqa: E402
from worker.celery_process import Process  # noqa: E402

process = Process(CommonSettings.read(), shutdown)
process.connect()
app = process.app


@app.task(name=ANALYZE)
def analyze(reference: str | None = None) -> None:
    """Work until no job is left. `reference`, the job that the wake-up was sent for, is for tracing alone."""
    process.call(ANALYZE, reference)


@app.task(name=DELIVER)
def deliver(reference: str | None = None) -> None:
    """Send the webhooks that are due."""
    process.call(DELIVER, reference)


@app.task(name=SWEEP)
def sweep() -> None:
    """End what is overdue, queue again what was dropped, wake workers for what waits."""
    process.call(SWEEP)
