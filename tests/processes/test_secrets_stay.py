"""No secret, and nothing of a tenant's, is in any log, error row, metric or command line, whatever goes wrong.

A word of its own is planted wherever a secret or something private can be; then everything is done that can be done,
wrong things above all, with every process at its most talkative; then all that was written down is searched.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from PIL import Image, PngImagePlugin
from pydantic import SecretStr
from sqlalchemy import make_url, text

from deploy.local.services import ServiceUrls
from shared.database.row_level_security import WORKER_ROLE
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import Workplace, as_environment, wait_until
from tests.support.databases import ROLE_PASSWORD
from tests.support.ports import free_ports
from tests.support.receivers import Receiver

#: What a client sends that is nobody else's business.
PRIVATE = {
    name: f"canary-{name}-5e1f"
    for name in ("file-name", "metadata", "query", "idempotency", "header", "path", "pixels", "receiver-query", "body")
}
#: What a process is given and cannot use.
WRONG = {name: f"canary-wrong-{name}-77ab" for name in ("database-password", "redis-password", "setting")}
SECRET_KEY = "canary-secret-key-of-thirty-two-characters"
INVALID_KEY = "dd_canary-of-a-key-that-nobody-has"


@pytest.fixture
def talkative(open_place: OpenWorkplace, receiver: Receiver) -> Workplace:
    place = open_place(
        log_level="DEBUG", secret_key=SecretStr(SECRET_KEY), egress_allow=(f"127.0.0.1:{receiver.port}",)
    )
    place.redis().flushall()
    return place


def test_nothing_private_is_written_down(
    talkative: Workplace, receiver: Receiver, services: ServiceUrls, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, key = talkative, talkative.new_key()
    url = place.start_api()
    place.start_analysis()
    place.start("worker", "-Q", "webhooks,sweep")
    _start_with_wrong_passwords(place)
    secrets = _server_secrets(services) | {"api key": key, "secret key": SECRET_KEY, "invalid key": INVALID_KEY}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as client:
        secrets |= _do_what_succeeds(place, client, receiver)
        _do_what_is_refused(client)
        _break_off(url, key)
        _have_the_database_refuse(place, client)
        metrics = client.get("/metrics").text
    _do_without_the_store(place, key)
    place.started[1].signal(signal.SIGKILL)

    written = {"metrics": metrics, "rows": _rows(place), "command lines": _command_lines(place)}
    written |= {str(path.relative_to(place.folder)): path.read_text() for path in place.folder.rglob("*.log")}
    servers = tmp_path_factory.getbasetemp().glob("services*/logs/*.log")
    written |= {f"server's {path.name}": path.read_text() for path in servers}
    assert {"server's postgres.log", "api.log", "process-1.log"} <= written.keys()
    assert "unexpected_error" in written["api.log"]  # what should fail did
    assert "dependency_unavailable" in "".join(written.values())
    words = PRIVATE | WRONG | secrets
    assert [(name, where) for name, word in words.items() for where in written if word in written[where]] == []


def _server_secrets(services: ServiceUrls) -> dict[str, str]:
    return {
        "owner's password": str(make_url(services.database_url).password),
        "role's password": ROLE_PASSWORD,
        "redis password": str(make_url(services.redis_url).password),
        "s3 secret key": services.s3_secret_key,
    }


def _start_with_wrong_passwords(place: Workplace) -> None:
    """Processes that cannot log in, or cannot read their settings, and say so."""
    database = make_url(place.settings.database_url.get_secret_value())
    redis = make_url(place.settings.redis_url.get_secret_value())
    wrong_url = database.set(username=WORKER_ROLE, password=WRONG["database-password"])
    first = {"DISTILDIRE_DATABASE_URL": wrong_url.render_as_string(hide_password=False)}
    second = {"DISTILDIRE_REDIS_URL": redis.set(password=WRONG["redis-password"]).render_as_string(hide_password=False)}
    for environment, says in ((first, "database_away"), (second, "Cannot connect to redis")):
        worker = place.start("worker", "-Q", "webhooks,sweep", environment=environment, ready=False)
        wait_until(lambda worker=worker, says=says: says in worker.said(), 60, worker.said)  # type: ignore[misc]
    broken = as_environment(place.settings) | {"DISTILDIRE_LEASE_SECONDS": WRONG["setting"]}
    with (place.folder / "wrong-setting.log").open("wb") as log:
        command = [sys.executable, "-m", "celery", "-A", "worker.tasks", "beat"]
        assert subprocess.run(command, env=os.environ | broken, stdout=log, stderr=log, check=False).returncode != 0


def _do_what_succeeds(place: Workplace, client: httpx.Client, receiver: Receiver) -> dict[str, str]:
    """Submit, fetch, and be told; return the secrets that came up."""
    endpoints = [
        client.post("/v1/webhook-endpoints", json={"url": receiver.url(f"{path}?token={PRIVATE['receiver-query']}")})
        for path in ("/200", "/500", "/garbage")
    ]
    secrets = {f"webhook secret {place}": answer.json()["secret"] for place, answer in enumerate(endpoints)}
    jobs = [_submit(client, _image(), "one"), _submit(client, _image()[:60], "two")]  # the second cannot be decoded
    wait_until(lambda: all(_ended(client, job) for job in jobs), 60, place.said)
    wait_until(lambda: len(receiver.received) >= 6, 60, place.said)
    wait_until(lambda: _tries(place) >= 6, 30, place.said)
    link = client.get(f"/v1/jobs/{jobs[0]}/artifacts/source", params={"link": 1}).json()["url"]
    assert httpx.get(link, trust_env=False).status_code == 200
    secrets["presigned signature"] = parse_qs(urlsplit(link).query)["X-Amz-Signature"][0]
    signatures = {call.headers["webhook-signature"] for call in receiver.received}
    return secrets | {f"webhook signature {number}": signature for number, signature in enumerate(sorted(signatures))}


def _submit(client: httpx.Client, image: bytes, idempotency: str) -> str:
    answer = client.post(
        "/v1/jobs",
        files={"image": (f"{PRIVATE['file-name']}.png", image)},
        data={"metadata": f'{{"note": "{PRIVATE["metadata"]}"}}'},
        headers={"Idempotency-Key": f"{PRIVATE['idempotency']}-{idempotency}", "X-Note": PRIVATE["header"]},
    )
    assert answer.status_code in (202, 500, 503), answer.text
    return str(answer.json().get("id", answer.status_code))


def _image() -> bytes:
    """A PNG with a private word in its text."""
    notes, file = PngImagePlugin.PngInfo(), io.BytesIO()
    notes.add_text("Comment", PRIVATE["pixels"])
    Image.radial_gradient("L").convert("RGB").save(file, "PNG", pnginfo=notes)
    return file.getvalue()


def _do_what_is_refused(client: httpx.Client) -> None:
    private, bad = PRIVATE, {"Authorization": f"Bearer {INVALID_KEY}"}
    for answer, status in (
        (client.get("/v1/jobs", headers=bad), 401),
        (client.get("/v1/jobs", headers={"Authorization": f"Basic {INVALID_KEY}"}), 401),
        (client.get("/v1/jobs", params={"cursor": private["query"]}), 422),
        (client.get(f"/v1/{private['path']}"), 404),
        (client.get(f"/v1/jobs/{private['path']}"), 404),
        (client.post("/v1/jobs", content=private["body"]), 415),
        (client.post("/v1/jobs", files={private["file-name"]: b"x"}), 422),
        (client.post("/v1/jobs", files={"image": (private["file-name"], private["body"].encode())}), 415),
        (client.post("/v1/webhook-endpoints", content=f'{{"url": "{private["body"]}'), 400),
        (client.post("/v1/webhook-endpoints", json={"url": f"http://u:{private['body']}@10.0.0.1/"}), 422),
    ):
        assert answer.status_code == status, (answer.request.url, answer.text)


def _break_off(url: str, key: str) -> None:
    """Send what never becomes a request, and requests that end in the middle."""
    at = (urlsplit(url).hostname, urlsplit(url).port)
    for words in (
        f"GET /{PRIVATE['path']} {key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {key}\r\n\r\n",
        f"GET /?{PRIVATE['query']} HTTP/9.1\r\n\r\n",
        f"POST /v1/jobs HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Length: 999\r\n\r\n{PRIVATE['body']}",
    ):
        with socket.create_connection(at, timeout=10) as connection:
            connection.sendall(words.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def _have_the_database_refuse(place: Workplace, client: httpx.Client) -> None:
    """Make PostgreSQL complain of a row: it likes to quote the whole of it."""
    with place.database.begin() as session:
        session.execute(text("ALTER TABLE jobs ADD CONSTRAINT planted CHECK (false) NOT VALID"))
    assert _submit(client, _image(), "three") == "500"
    with place.database.begin() as session:
        session.execute(text("ALTER TABLE jobs DROP CONSTRAINT planted"))


def _do_without_the_store(place: Workplace, key: str) -> None:
    folder = place.folder / "without-store"
    folder.mkdir()
    closed = f"http://127.0.0.1:{free_ports(1)[0]}"
    poor = replace(place, folder=folder, settings=place.settings.model_copy(update={"s3_endpoint": closed}))
    url = poor.start_api(ready="/healthz")
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as client:
        assert _submit(client, _image(), "four") == "503"


def _ended(client: httpx.Client, job_id: str) -> bool:
    return client.get(f"/v1/jobs/{job_id}").json()["status"] in ("succeeded", "failed")


def _tries(place: Workplace) -> int:
    with place.database.begin() as session:
        return int(session.scalar(text("SELECT count(*) FROM webhook_attempts")) or 0)


def _rows(place: Workplace) -> str:
    """What is kept about failures."""
    with place.database.begin() as session:
        errors = session.execute(text("SELECT error_code, error_message FROM jobs")).all()
        return str([*errors, *session.execute(text("SELECT error, response_excerpt FROM webhook_attempts"))])


def _command_lines(place: Workplace) -> str:
    """Of every process that descends from this one."""
    lines = [
        path.read_bytes().decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
    ]
    assert any("worker.tasks" in line for line in lines)
    return "\n".join(lines)
