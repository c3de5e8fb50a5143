"""Settings: read once, all problems told at once, no secret shown."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from shared.settings import SettingsError, load_settings, unknown_settings

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
    monkeypatch.setenv("DISTILDIRE_SECRETS_DIR", str(tmp_path))
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


DATABASE = [
    "junk",
    "mysql://app:hidden@db/name",
    "postgresql://app:hidden@/name",
    "postgresql:app:hidden@db/name",
    "postgresql://app:hidden@db",
    "postgresql://app:hidden@db:port/name",
    "postgresql://app:hidden@db:99999/name",
    "postgresql://app:hid#den@db/name",
    "postgresql://app:hid/den@db/name",
    "postgresql://app:hidden@[::1/name",
    "postgresql://app:hidden@db/name?sslmod=require",
    "postgresql://app:hidden@db/name\r",
]
REDIS = [
    *("junk", "http://:hidden@redis/0", "redis://:hidden@/0", "redis:///0", "redis://:hidden@redis/first"),
    *(
        "redis://:hidden@redis:port/0",
        "redis://:hid#den@redis/0",
        "redis://:hidden@redis:0/0",
        "redis://:hidden@redis/0\n",
    ),
]
ENDPOINT = [
    *("s3:9000", "s3", "http://s3:9000/path", "https://s3?x=1", "http://s3:port", "ftp://s3", "http://", "//s3:9000"),
    *("http://key:hidden@s3:9000", "http://s3:9000#x", "http://s 3", "http://[::1"),
]
WRONG = [
    *(("DATABASE_URL", value) for value in DATABASE),
    *(("REDIS_URL", value) for value in REDIS),
    *((name, value) for name in ("S3_ENDPOINT", "S3_PUBLIC_ENDPOINT") for value in ENDPOINT),
    *(("S3_BUCKET", value) for value in ("Upper", "a", "under_score", "a..b", "10.0.0.1", "path/bucket")),
    *(("S3_REGION", value) for value in ("eu west", "eu/west")),
    *(("S3_ACCESS_KEY", value) for value in ("hidden\r", " hidden", "hid\tden")),
    *(("S3_SECRET_KEY", value) for value in ("hidden\r\n", "hidden ")),
    ("SECRET_KEY", "hidden-hidden-hidden-hidden-hidden\r"),
    *(("BIND", value) for value in ("8000", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:0", "0.0.0.0:70000", ":80")),
    *(("LEASE_SECONDS", value) for value in ("inf", "nan", "1e30", "1")),
    *(("RETENTION_DAYS", value) for value in ("0", "1.5", "99999999", "hidden")),
    *(("MAX_UPLOAD_BYTES", value) for value in ("0", "20MB", "1e9", str(2**40))),
    ("READY_FILE", "/nonexistent/ready"),
    ("LOG_LEVEL", "info"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_cannot_be_is_named_at_the_start_and_no_secret_with_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"DISTILDIRE_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line for line in caught.value.message.splitlines() if line.startswith(f"  DISTILDIRE_{name}: ")]
    assert len(caught.value.message.splitlines()) == 3
    assert "hid" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://app:hid%23den@db:5432/name?sslmode=verify-full&sslrootcert=/ca.pem"),
        ("DATABASE_URL", "postgres://app:hidden@[::1]:5432/name"),
        ("DATABASE_URL", "postgresql+psycopg2://app@db1,db2/name"),
        ("DATABASE_URL", "postgresql:///name?host=/var/run/postgresql"),
        ("REDIS_URL", "rediss://user:hidden@redis.example:6380/15"),
        ("REDIS_URL", "redis://redis"),
        ("S3_ENDPOINT", "https://s3.eu-central-1.amazonaws.com/"),
        ("S3_ENDPOINT", "http://[fd00::1]:9000"),
        ("S3_BUCKET", "distildire.example-1"),
        ("BIND", "unix:/run/api.sock"),
        ("BIND", "[::]:8000"),
        ("BIND", "0.0.0.0:8000"),
    ],
)
def test_what_can_be_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DISTILDIRE_{name}", value)
    taken = getattr(load_settings(), name.lower())
    assert (taken.get_secret_value() if isinstance(taken, SecretStr) else taken) == value


@pytest.mark.parametrize(
    "origin",
    [
        "*", "null", "dashboard.example", "https://dashboard.example/", "https://dashboard.example/app",
        "https://Dashboard.example", "https://dashboard.example:443", "http://dashboard.example:80",
        "https://user@dashboard.example", "https://*.example", "ftp://dashboard.example",
    ],
)  # fmt: skip
def test_what_no_browser_names_as_an_origin_is_refused(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("DISTILDIRE_CORS_ORIGINS", f"https://fine.example,{origin}")
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        load_settings()


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILDIRE_CORS_ORIGINS", "https://dashboard.example,http://localhost:5173, http://[::1]:3000")
    assert load_settings().cors_origins == (
        "https://dashboard.example",
        "http://localhost:5173",
        "http://[::1]:3000",
    )


def test_a_folder_of_secrets_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTILDIRE_SECRETS_DIR", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match=r"SECRETS_DIR names .*absent"):
        load_settings()


def test_a_slip_of_the_pen_is_told_with_the_setting_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILDIRE_RETENTION_DAY", "3")
    monkeypatch.setenv("DISTILDIRE_NONSENSE", "3")
    monkeypatch.setenv("DISTILDIRE_API_KEY", "dd_x")
    found = unknown_settings()
    assert found["DISTILDIRE_RETENTION_DAY"] == "DISTILDIRE_RETENTION_DAYS"
    assert found["DISTILDIRE_NONSENSE"] is None
    assert found.keys() == {"DISTILDIRE_RETENTION_DAY", "DISTILDIRE_NONSENSE"}


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
    monkeypatch.setenv("DISTILDIRE_MODELS_DIR", str(tmp_path / "Absent"))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert (
        f"{tmp_path / 'Absent'} is not a folder; create it or leave DISTILDIRE_MODELS_DIR out" in caught.value.message
    )


@pytest.mark.parametrize(("poll_seconds", "limit"), [("2", 120), ("300", 600)])
def test_a_worker_that_seldom_looks_for_work_is_not_taken_for_wedged(
    monkeypatch: pytest.MonkeyPatch, poll_seconds: str, limit: float
) -> None:
    monkeypatch.setenv("DISTILDIRE_POLL_SECONDS", poll_seconds)
    assert load_settings().watchdog_limit_seconds == limit


@pytest.mark.parametrize(("given", "hours"), [("7200", 2), ("P5D", 120), ("PT90M", 1.5), ("5d", 120)])
def test_a_duration_is_seconds_or_iso_8601(monkeypatch: pytest.MonkeyPatch, given: str, hours: float) -> None:
    monkeypatch.setenv("DISTILDIRE_WEBHOOK_DISABLE_AFTER", given)
    assert load_settings().webhook_disable_after == timedelta(hours=hours)


@pytest.mark.parametrize("given", ["0", "-P1D", "five days", "soon"])
def test_a_duration_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("DISTILDIRE_WEBHOOK_DISABLE_AFTER", given)
    with pytest.raises(SettingsError, match="WEBHOOK_DISABLE_AFTER"):
        load_settings()
