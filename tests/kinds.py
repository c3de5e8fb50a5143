"""Pytest plugin: a test's kind is the folder it lies in; the run ends by saying how many of each kind ran."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

KINDS = ("unit", "services", "processes", "model", "training", "chaos", "hostile")
_TESTS = Path(__file__).parent
_ran: Counter[str] = Counter()


def kind_of(path: Path) -> str:
    """The kind of the test file at `path`: the name of its folder below tests/."""
    kind = path.relative_to(_TESTS).parts[0]
    if kind not in KINDS:
        raise pytest.UsageError(f"{path} lies in no folder of a kind: use one of {', '.join(KINDS)}")
    return kind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(kind_of(item.path))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        _ran[Path(report.nodeid).parts[1]] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = ", ".join(f"{kind} {_ran[kind]}" for kind in KINDS)
    terminalreporter.write_line(f"tests run: {counts}")
