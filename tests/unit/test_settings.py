"""Settings: read once, all problems told at once, no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.settings import SettingsError, load_settings

REQUIRED = {
    "DATABASE_URL": "postgresql://app:hidden@db/distildire",
    "REDIS_URL": "redis://:hidden@redis/0",
    "SECRET_KEY": "hidden-hidden-hidden-hidden-hidden",
    "S3_ENDPOINT": "http://s3:9000",
    "S3_ACCESS_KEY": "hidden-access",
    "S3_SECRET_KEY": "hidden-secret",
}


@pytest.fixture(autouse=True)
def _only_the_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTILDIRE_SECRETS_DIR", str(tmp_path / "absent"))
    for name, value in REQUIRED.items():
        monkeypatch.setenv(f"DISTILDIRE_{name}", value)


def test_all_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in REQUIRED:
        monkeypatch.delenv(f"DISTILDIRE_{name}")
    monkeypatch.setenv("DISTILDIRE_MAX_BATCH", "0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for name in [*REQUIRED, "MAX_BATCH"]:
        assert f"DISTILDIRE_{name}:" in caught.value.message


def test_a_wrong_value_is_not_repeated_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILDIRE_SECRET_KEY", "too-short")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "too-short" not in caught.value.message
    assert "SECRET_KEY" in caught.value.message


def test_secrets_are_read_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DISTILDIRE_S3_SECRET_KEY")
    monkeypatch.setenv("DISTILDIRE_SECRETS_DIR", str(tmp_path))
    (tmp_path / "distildire_s3_secret_key").write_text("from-a-file\n")
    assert load_settings().s3_secret_key.get_secret_value() == "from-a-file"


def test_a_secret_that_cannot_be_read_is_told_without_its_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTILDIRE_SECRETS_DIR", str(tmp_path))
    (tmp_path / "distildire_s3_secret_key").write_bytes(b"hidden\xff")
    with pytest.raises(SettingsError, match="s3_secret_key") as caught:
        load_settings()
    assert str(tmp_path) in caught.value.message
    assert "hidden" not in caught.value.message


def test_the_object_is_frozen_and_hides_secrets() -> None:
    settings = load_settings()
    assert "hidden" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.model = "other"  # type: ignore[misc]  # the very thing that must not work


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILDIRE_EGRESS_ALLOW", "127.0.0.1:9000, 10.0.0.0/8,")
    assert load_settings().egress_allow == ("127.0.0.1:9000", "10.0.0.0/8")


def test_an_egress_entry_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILDIRE_EGRESS_ALLOW", "10.0.0.0/8,http://receiver")
    with pytest.raises(SettingsError, match="EGRESS_ALLOW"):
        load_settings()


@pytest.mark.parametrize(("slots", "expected"), [(None, 16), ("3", 3)])
def test_slots_are_twice_the_batch_by_default(
    monkeypatch: pytest.MonkeyPatch, slots: str | None, expected: int
) -> None:
    if slots:
        monkeypatch.setenv("DISTILDIRE_SLOTS", slots)
    assert load_settings().slot_count == expected


def test_a_models_dir_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTILDIRE_MODELS_DIR", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="MODELS_DIR"):
        load_settings()


@pytest.mark.parametrize(("poll_seconds", "patience"), [("2", 120), ("300", 600)])
def test_a_worker_that_seldom_looks_for_work_is_not_taken_for_wedged(
    monkeypatch: pytest.MonkeyPatch, poll_seconds: str, patience: float
) -> None:
    monkeypatch.setenv("DISTILDIRE_POLL_SECONDS", poll_seconds)
    assert load_settings().watchdog_patience == patience
