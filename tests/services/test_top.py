"""`distildire top` on a real PostgreSQL."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from rich.console import Console

from deploy.cli import main
from deploy.commands.operator.top import render
from deploy.local.services import ServiceUrls
from shared.database.engine import Database
from shared.domain import Role, WorkerState
from shared.workers import registry
from shared.workers.registry import WorkerIdentity, WorkerStatus
from tests.processes.worker_processes import as_environment
from tests.support.service_settings import settings_for


@pytest.fixture
def environment(services: ServiceUrls, empty_database: str) -> dict[str, str]:
    """The settings of a database with one worker."""
    database = Database(empty_database)
    me = WorkerIdentity.of_this_process(Role.ANALYSIS)
    registry.beat(
        database,
        me,
        WorkerStatus(WorkerState.READY, slots=8, busy=3, model="M", device="cuda", precision="bf16"),
        age=timedelta(seconds=5),
    )
    database.close()
    return as_environment(settings_for(services, database_url=empty_database))


def test_json_is_one_document_and_nothing_else(environment: dict[str, str]) -> None:
    told = CliRunner().invoke(main, ["top", "--json"], env=environment)
    assert told.exit_code == 0, told.output
    moment = json.loads(told.stdout)
    (worker,) = moment["workers"]
    assert (worker["role"], worker["state"], worker["busy"], worker["slots"]) == ("analysis", "ready", 3, 8)
    assert moment["jobs"] == {
        "queued": 0,
        "oldest_queued_seconds": None,
        "running": 0,
        "ended_in_five_minutes": {"succeeded": 0, "failed": 0, "canceled": 0, "expired": 0},
        "per_minute": 0,
    }
    assert moment["webhooks"] == {"pending": 0, "due": 0}


def test_without_a_terminal_it_shows_one_moment(environment: dict[str, str]) -> None:
    told = CliRunner().invoke(main, ["top"], env=environment)
    assert told.exit_code == 0, told.output
    for word in ("0 queued", "analysis", "ready", "3/8", "cuda bf16", "s ago"):
        assert word in told.stdout


def test_a_database_that_is_away_is_one_sentence(environment: dict[str, str]) -> None:
    away = environment | {"DISTILDIRE_DATABASE_URL": "postgresql://app:x@127.0.0.1:1/none"}
    told = CliRunner().invoke(main, ["top", "--once"], env=away)
    assert told.exit_code == 1
    assert "does not answer" in told.output


def test_what_waits_and_who_is_silent_are_plain_to_see() -> None:
    ended = {"succeeded": 480, "failed": 2, "canceled": 0, "expired": 0}
    worker = {
        "role": "analysis",
        "host": "[gpu]",
        "pid": 7,
        "state": "draining",
        "busy": 1,
        "slots": 8,
        "model": None,
        "device": None,
        "precision": None,
        "version": "1",
        "silent_seconds": 200.0,
    }
    moment = {
        "jobs": {
            "queued": 12,
            "oldest_queued_seconds": 7300.0,
            "running": 8,
            "ended_in_five_minutes": ended,
            "per_minute": 96,
        },
        "webhooks": {"pending": 3, "due": 1},
        "workers": [worker],
    }
    console = Console(width=160, record=True)
    console.print(render(moment))
    told = console.export_text()
    for words in ("12 queued (the oldest for 2.0 h)", "96 ended", "480 succeeded, 2 failed", "1 of them due", "[gpu]"):
        assert words in told
    assert "3 min ago" in told
    console.print(render(moment | {"workers": []}))
    assert "No analysis worker is running: jobs wait." in console.export_text()
