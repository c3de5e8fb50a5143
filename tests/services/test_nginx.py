"""The nginx configuration of the documentation, in front of the API as it is deployed."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from shared.settings import Settings
from tests.support import nginx
from tests.support.api_server import ApiServer, serving
from tests.support.api_world import ApiWorld, png
from tests.support.ports import free_ports

pytestmark = pytest.mark.skipif(nginx.PROGRAM is None, reason="nginx is not installed (Debian: nginx-light)")


@pytest.fixture(scope="module")
def server(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with serving(api_settings, tmp_path_factory.mktemp("gunicorn")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the API behind nginx, over TLS."""
    folder = tmp_path_factory.mktemp("nginx")
    (port,) = free_ports(1)
    main = nginx.runnable(folder, port=port, api=server.url)
    assert "test is successful" in nginx.check(main)
    process = subprocess.Popen(nginx.command(main))
    try:
        _await(process, port)
        trusted = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusted, trust_env=False, timeout=20) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=20)


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("nginx did not listen")


def test_an_image_goes_through(api: ApiWorld, proxy: httpx.Client) -> None:
    accepted = proxy.post("/v1/jobs", files={"image": png()}, headers=api.one.headers)
    assert accepted.status_code == 202
    shown = proxy.get(accepted.headers["Location"], headers=api.one.headers)
    assert shown.json()["id"] == accepted.json()["id"]


def test_the_metrics_stay_inside(proxy: httpx.Client, server: ApiServer) -> None:
    assert server.get("/metrics", {}).status_code == 200
    assert proxy.get("/metrics").status_code == 403


def test_a_body_that_is_far_too_large_is_refused_by_the_proxy(api: ApiWorld, proxy: httpx.Client) -> None:
    refused = proxy.post("/v1/jobs", files={"image": b"\0" * 23_000_000}, headers=api.one.headers)
    assert refused.status_code == 413
    assert "problem+json" not in refused.headers["Content-Type"]
