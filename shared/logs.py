"""The log format of every process: one JSON object per line on standard error."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable

import structlog

_REPEAT_SECONDS = 30.0
_REMEMBERED = 1000  # the most different warnings that are remembered

#: The lines that PostgreSQL adds to an error. They contain values of the row or key that it refused.
_DETAIL = re.compile(r"\n(DETAIL|CONTEXT|HINT): .*?(?=\n\n|\Z)", re.DOTALL)
#: Renders tracebacks without local variables, which structlog includes by default: they hold keys and images.
_tracebacks = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _without_rows(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Remove the values of rows from tracebacks: they are tenants' data."""
    for error in event.get("exception", ()):
        error["exc_value"] = _DETAIL.sub("", error["exc_value"])
    return event


_SHARED_STEPS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logging(level: str) -> None:
    """Format the records of structlog and of the standard library in the same way."""
    structlog.configure(
        processors=[
            *_SHARED_STEPS,
            _tracebacks,
            _without_rows,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repetitions())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED_STEPS, _tracebacks, _without_rows],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


class Repetitions(logging.Filter):
    """Lets each identical warning or error pass once in 30 seconds, with the number of repetitions.

    So an outage that is logged every second neither fills the disk nor hides other records. A record that names a job
    or a request is not identical to others, so it always passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when it last passed, and how often it did not since

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record; if it stands for suppressed ones, set their number as `repeated`."""
        if record.levelno < logging.WARNING:
            return True
        key, now = (record.name, _words(record)), self._clock()
        with self._lock:
            passed, silent = self._told.get(key, (-_REPEAT_SECONDS, 0))
            if now - passed < _REPEAT_SECONDS:
                self._told[key] = passed, silent + 1
                return False
            if len(self._told) >= _REMEMBERED:
                self._told.clear()
            self._told[key] = now, 0
        if silent and isinstance(record.msg, dict):
            record.msg["repeated"] = silent
        elif silent:
            record.msg, record.args = f"{record.getMessage()} (repeated {silent} times)", ()
        return True


def _words(record: logging.LogRecord) -> str:
    """Return the content of the record without its time."""
    if isinstance(record.msg, dict):  # from structlog
        return repr({name: value for name, value in record.msg.items() if name != "timestamp"})
    return f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
