"""`python -P -m worker ROLE`: run one of Celery's processes as the settings say, whatever else the environment holds.

The roles: `analysis` runs the model, `webhooks` delivers webhooks and sweeps, `beat` keeps the schedule.
"""

from __future__ import annotations

from worker.process.shutdown import install

install()  # first: the imports below take time, and SIGTERM must end this process in order meanwhile

import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import NoReturn  # noqa: E402

from shared.entry import begin  # noqa: E402
from shared.settings import AnalysisSettings, CommonSettings, Settings  # noqa: E402

_WORKER = ("worker", "--pool", "threads", "--without-mingle", "--without-gossip", "--without-heartbeat")
_ROLES = {
    # One thread for each job that may run at once: worker/celery_process.py sets that.
    "analysis": (AnalysisSettings, (*_WORKER, "--queues", "analysis")),
    # These threads only start work: the sender has threads of its own.
    "webhooks": (
        Settings,
        (*_WORKER, "--queues", "webhooks,sweep", "--concurrency", "4"),
    ),
    # worker/celery_process.py sets its scheduler, worker/process/beat.py.
    "beat": (CommonSettings, ("beat", "--pidfile", "")),
}


def main(arguments: Sequence[str]) -> NoReturn:
    """Run until told to stop. Celery's own command would also look for modules in the working directory."""
    if len(arguments) != 1 or arguments[0] not in _ROLES:
        sys.exit(f"usage: python -P -m worker {'|'.join(_ROLES)}")
    kind, command = _ROLES[arguments[0]]
    begin(kind)  # first: Celery reads some of the environment when it is imported
    from celery.bin.celery import celery

    from worker.tasks import app

    celery.params[0].default = app  # as `app.start` does, which loses the status that the process ends with
    sys.exit(celery.main(args=[*command], standalone_mode=False))


if __name__ == "__main__":
    main(sys.argv[1:])
