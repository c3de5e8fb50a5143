"""What a log line holds, and what it never may."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shared.database import Database

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
