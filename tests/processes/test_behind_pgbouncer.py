"""The whole service with PgBouncer in transaction mode between it and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import httpx
from pydantic import SecretStr

from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import wait_until
from tests.support.bad_images import photograph, saved
from tests.support.pgbouncer import behind_pgbouncer, needs_pgbouncer
from tests.support.receivers import Receiver

pytestmark = needs_pgbouncer

PHOTOGRAPH = saved(photograph(), "PNG")
CUT_OFF = PHOTOGRAPH[: len(PHOTOGRAPH) // 2]
TENANTS = ("one", "other")


def test_jobs_end_are_told_of_and_stay_their_tenants_own(
    open_place: OpenWorkplace, empty_database: str, tmp_path: Path, receiver: Receiver
) -> None:
    folder = tmp_path / "pgbouncer"
    folder.mkdir()
    with behind_pgbouncer(folder, empty_database) as url:
        place = open_place(database_url=SecretStr(url), egress_allow=(f"127.0.0.1:{receiver.port}",))
        place.redis().flushall()
        api = place.start_api()
        place.start_analysis()
        place.start("worker", "-Q", "webhooks,sweep")
        clients = {name: _client(api, place.new_key(name)) for name in TENANTS}
        jobs = {}
        for name, client in clients.items():
            client.post("/v1/webhook-endpoints", json={"url": receiver.url(f"/200?{name}")}).raise_for_status()
            jobs[name] = [_submit(client, image) for image in (PHOTOGRAPH, CUT_OFF, PHOTOGRAPH)]
        wait_until(lambda: all(_ended(clients[name], job) for name in TENANTS for job in jobs[name]), 60, place.said)
        wait_until(lambda: len(receiver.received) >= 6, 30, place.said)

        for name, client in clients.items():
            found = [client.get(f"/v1/jobs/{job}").json() for job in jobs[name]]
            assert [job["status"] for job in found] == ["succeeded", "failed", "succeeded"]
            assert found[1]["error"]["code"] == "corrupt_image"
            assert {job["id"] for job in client.get("/v1/jobs").json()["items"]} == {*jobs[name]}
            assert client.get(f"/v1/jobs/{jobs[name][0]}/artifacts/heatmap").status_code == 200
        assert clients["one"].get(f"/v1/jobs/{jobs['other'][0]}").status_code == 404
        assert _told(receiver) == {name: {*jobs[name]} for name in TENANTS}
        assert {job.attempt for job in place.jobs()} == {1}
        for client in clients.values():
            client.close()
        place.close()


def _client(api: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=api, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)


def _submit(client: httpx.Client, image: bytes) -> str:
    answer = client.post("/v1/jobs", files={"image": image})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _ended(client: httpx.Client, job: str) -> bool:
    found: Mapping[str, object] = client.get(f"/v1/jobs/{job}").json()
    return found["status"] in ("succeeded", "failed")


def _told(receiver: Receiver) -> dict[str, set[str]]:
    """Which jobs each tenant's endpoint was told of."""
    told: dict[str, set[str]] = {}
    for call in receiver.received:
        told.setdefault(call.path.partition("?")[2], set()).add(json.loads(call.body)["data"]["id"])
    return told
