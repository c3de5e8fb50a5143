"""What `distildire doctor` says of servers that are as they should be, of restored ones, and of ones that are away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import NullPool, create_engine, make_url, text

from deploy.cli import main
from deploy.commands.operator.top import render
from deploy.doctor import server_checks
from deploy.doctor.check_result import CheckResult
from deploy.doctor.server_checks import CheckedServers, check_servers
from deploy.local.stack_file import StackDocument
from shared.settings import Settings
from tests.processes.worker_processes import as_environment
from tests.support.api_world import ApiWorld
from tests.support.databases import fresh_database
from tests.support.ports import free_ports


def found(settings: Settings, stack: StackDocument | None = None) -> dict[str, CheckResult]:
    """Every finding by its subject."""
    return {finding.subject: finding for finding in check_servers(CheckedServers(settings, stack, Path("data dir")))}


def test_what_belongs_together_is_found_to(api: ApiWorld, owner_settings: Settings):
    api.one.add_endpoint()
    api.one.submit()
    api.fail_next()
    with api.working():
        findings = found(owner_settings)
    assert [finding for finding in findings.values() if finding.faulty] == []
    assert findings["secret key"].found == "is the one that the database was written with"
    assert findings["images"].found == "of 1 recent jobs, all have theirs in the store"


def test_a_restore_with_another_secret_key_is_a_fault(api: ApiWorld, owner_settings: Settings):
    api.one.add_endpoint()
    other = owner_settings.model_copy(update={"secret_key": SecretStr("another secret key of 32 characters")})
    finding = found(other)["secret key"]
    assert finding.faulty
    assert "put back the DISTILDIRE_SECRET_KEY" in finding.remedy


def test_without_an_endpoint_a_known_api_key_tells_the_secret_key(
    api: ApiWorld, owner_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("DISTILDIRE_API_KEY", raising=False)
    untold = found(owner_settings)["secret key"]
    assert (untold.state, "set DISTILDIRE_API_KEY" in untold.remedy) == ("note", True)
    monkeypatch.setenv("DISTILDIRE_API_KEY", api.one.key)
    assert found(owner_settings)["secret key"].state == "ok"
    other = owner_settings.model_copy(update={"secret_key": SecretStr("another secret key of 32 characters")})
    assert found(other)["secret key"].faulty


def test_a_restore_with_an_empty_bucket_is_a_fault(api: ApiWorld, owner_settings: Settings):
    api.one.submit()
    for key in api.around.store.keys(""):
        api.around.store.delete(key)
    finding = found(owner_settings)["images"]
    assert finding.faulty
    assert "1 of 1 recent jobs" in finding.found


@pytest.mark.parametrize("ours", [True, False])
def test_with_postgres_away_nothing_else_is_blamed(owner_settings: Settings, ours: bool):
    (port,) = free_ports(1)
    url = f"postgresql://app:hidden@127.0.0.1:{port}/name"
    away = owner_settings.model_copy(update={"database_url": SecretStr(url)})
    s3 = {"endpoint": "", "access_key": "", "secret_key": "", "bucket": ""}
    findings = found(away, StackDocument("", "dd_x", url, "", s3) if ours else None)
    faults = [finding for finding in findings.values() if finding.faulty]
    assert [fault.subject for fault in faults] == ["PostgreSQL"]
    assert "Connection refused" in faults[0].found
    remedy = "`distildire up --data-dir 'data dir'`" if ours else "correct DISTILDIRE_DATABASE_URL"
    assert remedy in faults[0].remedy
    assert not [finding for finding in findings.values() if "db upgrade" in finding.remedy]


def test_an_empty_database_is_told_to_be_upgraded_and_no_more(owner_settings: Settings):
    url = fresh_database(owner_settings.database_url.get_secret_value())
    faults = [
        each
        for each in found(owner_settings.model_copy(update={"database_url": SecretStr(url)})).values()
        if each.faulty
    ]
    assert [(fault.subject, fault.remedy) for fault in faults] == [("database schema", "run `distildire db upgrade`")]


def test_nobody_who_works_is_a_fault_once_a_job_waits(api: ApiWorld, owner_settings: Settings):
    assert found(owner_settings)["workers"].state == "note"
    api.one.submit()
    finding = found(owner_settings)["workers"]
    assert finding.faulty
    assert "no analysis and no webhooks worker runs" in finding.found
    assert "1 jobs wait" in finding.found


def test_a_snapshot_that_is_held_for_long_is_told_with_its_holder(
    owner_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    assert found(owner_settings)["old snapshots"].state == "ok"
    monkeypatch.setattr(server_checks, "_OLD_SNAPSHOT_SECONDS", 0)
    url = make_url(owner_settings.database_url.get_secret_value()).set(drivername="postgresql+psycopg2")
    named = url.update_query_dict({"application_name": "pg_dump"})
    engine = create_engine(named, isolation_level="REPEATABLE READ", poolclass=NullPool)
    with engine.connect() as dump:
        dump.execute(text("SELECT count(*) FROM jobs"))
        pid = dump.scalar(text("SELECT pg_backend_pid()"))
        finding = found(owner_settings)["old snapshots"]
    assert finding.state == "note"
    assert f"pg_dump (process {pid})" in finding.found
    assert f"pg_terminate_backend({pid})" in finding.remedy


def test_a_setting_that_there_is_not_is_told(owner_settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTILDIRE_RETENTION_DAY", "3")
    finding = found(owner_settings)["DISTILDIRE_RETENTION_DAY"]
    assert (finding.state, "DISTILDIRE_RETENTION_DAYS is one" in finding.found) == ("note", True)


def test_json_is_a_document_for_each_check_and_the_exit_code_says_whether_one_is_wrong(
    api: ApiWorld, owner_settings: Settings, tmp_path: Path
):
    closed = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    environment = as_environment(owner_settings) | {"DISTILDIRE_REDIS_URL": closed}
    done = CliRunner().invoke(main, ["doctor", "--json", "--data-dir", str(tmp_path)], env=environment)
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert {tuple(document) for document in documents} == {("state", "subject", "found", "remedy")}
    assert [document["subject"] for document in documents if document["state"] == "fault"] == ["Redis"]
    assert done.exit_code == 1


@pytest.mark.parametrize("silent", [-0.04, 0.0])
def test_top_says_that_nobody_analyses_and_tells_no_time_of_less_than_nothing(silent: float):
    worker = {
        "role": "webhooks",
        "host": "h",
        "pid": 1,
        "state": "ready",
        "busy": 0,
        "slots": 8,
        "model": None,
        "device": None,
        "precision": None,
        "version": "1",
        "silent_seconds": silent,
    }
    jobs = {"queued": 0, "oldest_queued_seconds": -0.01, "running": 0, "ended_in_five_minutes": {}, "per_minute": 0}
    moment = {"jobs": jobs, "webhooks": {"pending": 0, "due": 0}, "workers": [worker]}
    console = Console(width=200, record=True)
    console.print(render(moment))
    told = console.export_text()
    assert "No analysis worker is running: jobs wait." in told
    assert "No webhooks worker" not in told
    assert "-0 s" not in told
