"""The command's HTTP: directly to this machine, by the user's proxy to others, and errors that name the variable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.client import ApiUnreachableError, Client
from shared.outbound import OutboundError, open_client
from tests.support.weights_server import running_weights_server
from worker.model.cards.schema import WeightsFile
from worker.model.weights.download import FetchError, fetch

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CLOSED = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_VARIABLES, *map(str.upper, _VARIABLES), "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def here() -> Iterator[str]:
    """The URL of a server on this machine."""
    with running_weights_server(b"content") as server:
        yield server.url()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", _CLOSED),
        ("http_proxy", _CLOSED),
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("ALL_PROXY", "nonsense://x"),
        ("SSL_CERT_FILE", "/nonexistent.pem"),
        ("SSL_CERT_DIR", "/nonexistent"),
    ],
)
def test_this_machine_is_reached_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, here: str, name: str, value: str
):
    monkeypatch.setenv(name, value)
    for url in (here, here.replace("127.0.0.1", "localhost"), here.replace("127.0.0.1", "0.0.0.0")):
        with open_client(url) as client:
            assert client.get(url).content == b"content", url


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ALL_PROXY", "socks5://me:hidden@127.0.0.1:1080", "ALL_PROXY names the SOCKS proxy 127.0.0.1:1080"),
        ("https_proxy", "nonsense://x", "https_proxy does not name a proxy"),
        ("HTTPS_PROXY", "http://[::1", "HTTPS_PROXY does not name a proxy"),
        ("SSL_CERT_FILE", "/nonexistent.pem", "SSL_CERT_FILE names /nonexistent.pem"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str):
    monkeypatch.setenv(name, value)
    for make in (lambda: open_client("https://api.example"), lambda: Client("https://api.example", "dd_x")):
        with pytest.raises(OutboundError) as caught:
            make()
        assert says in caught.value.message
        assert "hidden" not in caught.value.message


def test_a_proxy_that_keeps_from_the_api_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://me:hidden@127.0.0.1:1")
    with Client("http://api.example", "dd_x", retry_seconds=0) as client, pytest.raises(ApiUnreachableError) as caught:
        client.get("id")
    assert "through the proxy 127.0.0.1:1, which HTTP_PROXY names" in caught.value.message
    assert "hidden" not in caught.value.message


def test_a_host_that_needs_no_proxy_is_not_said_to_have_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", _CLOSED)
    monkeypatch.setenv("NO_PROXY", "api.invalid")
    with Client("http://api.invalid", "dd_x", retry_seconds=0) as client, pytest.raises(ApiUnreachableError) as caught:
        client.get("id")
    assert "proxy" not in caught.value.message


def test_weights_come_by_the_users_proxy_and_its_failure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with running_weights_server(b"content") as proxy:  # asked for any address, it answers with its file
        monkeypatch.setenv("http_proxy", proxy.url().rpartition("/")[0])
        stated = WeightsFile(weights="w.pt", urls=("http://models.invalid/w.pt",), sha256="0" * 64)
        with pytest.raises(FetchError, match="another file"):  # it came, by the proxy
            fetch(stated, tmp_path / "w.pt", lambda *_: None)
    monkeypatch.setenv("http_proxy", _CLOSED)
    with pytest.raises(FetchError, match=r"through the proxy http://127\.0\.0\.1:1, which http_proxy names: no"):
        fetch(stated, tmp_path / "w.pt", lambda *_: None)
