"""What a log line holds, and what it never may."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from shared.database.engine import Database
from shared.logs import Repetitions

#: In a process of its own: pytest has handlers on the root logger too.
_PROGRAM = """
import logging, structlog
from shared.logs import configure_logging

def fail(api_key):
    raise ValueError(f"a key of {len(api_key)} characters")

configure_logging("INFO")
try:
    fail("".join(["dd_a", "-secret"]))
except ValueError:
    LOGGER.exception("it_failed")
"""


@pytest.mark.parametrize("logger", ["structlog.get_logger()", "logging.getLogger('library')"])
def test_a_traceback_names_its_frames_and_shows_no_local_variable(logger: str) -> None:
    program = _PROGRAM.replace("LOGGER", logger)
    written = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    (line,) = map(json.loads, written.splitlines())
    assert line["event"] == "it_failed"
    (exception,) = line["exception"]
    assert (exception["exc_type"], exception["exc_value"]) == ("ValueError", "a key of 11 characters")
    assert [frame["name"] for frame in exception["frames"]] == ["<module>", "fail"]
    assert "dd_a-secret" not in written


def test_an_error_of_the_database_does_not_repeat_the_values_of_its_statement() -> None:
    assert Database("postgresql://u:p@localhost/d").engine.hide_parameters


def test_what_postgresql_quotes_of_a_row_is_left_out() -> None:
    said = "(CheckViolation) it is wrong\\nDETAIL:  Failing row contains (a-secret,\\n more).\\n\\n[SQL: INSERT]"
    program = _PROGRAM.replace("LOGGER", "structlog.get_logger()").replace(
        'f"a key of {len(api_key)} characters"', f'"{said}"'
    )
    written = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    (exception,) = json.loads(written)["exception"]
    assert exception["exc_value"] == "(CheckViolation) it is wrong\n\n[SQL: INSERT]"


def record(words: str | dict[str, Any], level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("worker", level, "file.py", 1, words, (), None)


def test_what_repeats_word_for_word_is_written_twice_a_minute_with_its_count() -> None:
    now = 0.0
    repetitions = Repetitions(clock=lambda: now)
    written = []
    for second in range(0, 61, 2):
        now = float(second)
        outage = record({"event": "database_away", "timestamp": f"second {second}"})
        if repetitions.filter(outage):
            written.append(outage.msg)
    assert written == [
        {"event": "database_away", "timestamp": "second 0"},
        {"event": "database_away", "timestamp": "second 30", "repeated": 14},
        {"event": "database_away", "timestamp": "second 60", "repeated": 14},
    ]


def test_a_library_s_sentence_is_counted_too() -> None:
    now = 0.0
    repetitions = Repetitions(clock=lambda: now)
    assert repetitions.filter(record("Connection refused."))
    assert not repetitions.filter(record("Connection refused."))
    now = 30.0
    again = record("Connection refused.")
    assert repetitions.filter(again)
    assert again.getMessage() == "Connection refused. (repeated 1 times)"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (record({"event": "job_failed", "job_id": "1"}), record({"event": "job_failed", "job_id": "2"})),
        (record({"event": "request"}, logging.INFO), record({"event": "request"}, logging.INFO)),
    ],
    ids=["another job", "no warning"],
)
def test_what_is_no_repetition_is_written(one: logging.LogRecord, other: logging.LogRecord) -> None:
    repetitions = Repetitions(clock=lambda: 0.0)
    assert repetitions.filter(one)
    assert repetitions.filter(other)
