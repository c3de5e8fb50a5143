"""Which variables a process of the product sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared import environment

_OWN = {"DISTILDIRE_MODEL": "X", "DISTILDIRE_LEASE_SECONDS": "9"}
_NAMED = {"PATH": "/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "2"}
_FOREIGN = {
    *("CELERY_BROKER_URL", "BROKER_URL", "PGSSLMODE", "PGOPTIONS", "GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"),
    *("SCRIPT_NAME", "FORWARDED_ALLOW_IPS", "PORT", "https_proxy", "ALL_PROXY", "DJANGO_SETTINGS_MODULE"),
}
_HARMLESS = {"PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD", "EDITOR", "AWS_SECRET_ACCESS_KEY"}


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's environment is what the test says, until it ends."""
    before = dict(os.environ)
    for name in before:
        monkeypatch.delenv(name)
    for name, value in {**_OWN, **_NAMED, **dict.fromkeys(_FOREIGN | _HARMLESS, "x")}.items():
        monkeypatch.setenv(name, value)


def test_a_process_keeps_settings_and_named_variables_alone(surroundings: None):
    ignored = environment.confine()
    assert dict(os.environ) == _OWN | _NAMED
    assert set(ignored) == _FOREIGN  # what a library would have acted on is told


def test_a_program_of_others_sees_no_setting():
    assert environment.plain(_OWN | _NAMED | dict.fromkeys(_FOREIGN, "x")) == _NAMED


def test_paths_among_the_settings_hold_wherever_a_process_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    kept = environment.with_settings({"DISTILDIRE_MODELS_DIR": "models", "DISTILDIRE_SECRETS_DIR": "", **_OWN})
    assert kept == {"DISTILDIRE_MODELS_DIR": str(tmp_path / "models"), "DISTILDIRE_SECRETS_DIR": "", **_OWN}


def test_the_commands_own_key_is_not_handed_down():
    variables = {"DISTILDIRE_API_KEY": "dd_x", "DISTILDIRE_API_URL": "http://x", "DISTILDIRE_DATA_DIR": "d"}
    assert environment.with_settings(variables) == {}


def test_authorities_that_cannot_be_read_are_ignored_with_a_word(surroundings: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    monkeypatch.setenv("SSL_CERT_DIR", "/")
    assert "SSL_CERT_FILE" in environment.confine()
    assert "SSL_CERT_FILE" not in os.environ
    assert os.environ["SSL_CERT_DIR"] == "/"
