"""One log format for every process: a JSON object a line on standard error."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable

import structlog

_REPEAT_SECONDS = 30.0
_REMEMBERED = 1000  # different warnings; a process that has more of them has other worries

#: What PostgreSQL adds to an error: the values of the row or key that it refused.
_DETAIL = re.compile(r"\n(DETAIL|CONTEXT|HINT): .*?(?=\n\n|\Z)", re.DOTALL)
#: Tracebacks without the values of local variables, which structlog would add: among them are keys and images.
_tracebacks = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _without_rows(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take the values of rows out of tracebacks: they are tenants' data."""
    for error in event.get("exception", ()):
        error["exc_value"] = _DETAIL.sub("", error["exc_value"])
    return event


_SHARED_STEPS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logging(level: str) -> None:
    """Send structlog's and the standard library's records through one formatter."""
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
    """Lets a warning or error that says word for word the same pass once in 30 seconds, with how often it was said.

    So an outage that is met every second neither fills the disk nor hides what else happens. What names a job or a
    request differs from all others and always passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when it last passed, and how often it did not since

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written; one that is gets `repeated` if it stands for more."""
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
    """What the record says, without when."""
    if isinstance(record.msg, dict):  # from structlog
        return repr({name: value for name, value in record.msg.items() if name != "timestamp"})
    return f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
