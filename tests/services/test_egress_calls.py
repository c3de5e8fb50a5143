"""The egress guard's calls, against real receivers on loopback that the operator allows."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from shared.destinations import EgressCode, EgressRefused
from tests.receivers import Receiver, running_receiver, self_signed
from worker.egress import EXCERPT_BYTES, Egress, EgressFailed

HEADERS = {"Content-Type": "application/json", "webhook-id": "msg_1"}
BODY = '{"type": "job.succeeded", "ü": "\\u0000"}'.encode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def egress(receiver: Receiver) -> Egress:
    return Egress([f"127.0.0.1:{receiver.port}"])


def failure(egress: Egress, url: str, timeout: float = 5.0, body: bytes = BODY) -> EgressCode:
    with pytest.raises(EgressFailed) as caught:
        egress.post(url, body, HEADERS, timeout)
    return caught.value.code


def test_what_is_posted_arrives_byte_for_byte(egress: Egress, receiver: Receiver) -> None:
    response = egress.post(receiver.url("/201?a=b%20c"), BODY, HEADERS, 5)
    assert (response.status, response.body_excerpt) == (201, "answer 201")
    (request,) = receiver.received
    assert request.path == "/201?a=b%20c"
    assert request.body == BODY
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["webhook-id"] == "msg_1"
    assert request.headers["content-length"] == str(len(BODY))


def test_a_receiver_on_ipv6_is_called_by_its_bracketed_host() -> None:
    with running_receiver(host="::1") as receiver:
        Egress([f"[::1]:{receiver.port}"]).post(receiver.url("/200", host="[::1]"), BODY, HEADERS, 5)
    assert receiver.received[0].headers["host"] == f"[::1]:{receiver.port}"


@pytest.mark.parametrize("path", ["/hang", "/drip-head", "/drip-body"])
def test_a_slow_receiver_is_left_when_the_time_is_over(egress: Egress, receiver: Receiver, path: str) -> None:
    begun = time.monotonic()
    assert failure(egress, receiver.url(path), timeout=0.6) is EgressCode.TIMEOUT
    assert 0.5 < time.monotonic() - begun < 2
    assert len(receiver.received) == 1


def test_a_receiver_that_does_not_read_is_left_when_the_time_is_over(egress: Egress, receiver: Receiver) -> None:
    begun = time.monotonic()
    body = b"x" * 50_000_000  # more than the sockets between us buffer
    assert failure(egress, receiver.url("/deaf"), timeout=0.6, body=body) is EgressCode.TIMEOUT
    assert time.monotonic() - begun < 2


def test_a_gigabyte_is_answered_but_not_read(egress: Egress, receiver: Receiver) -> None:
    response = egress.post(receiver.url("/gigabyte"), BODY, HEADERS, 5)
    assert (response.status, response.body_excerpt) == (200, "x" * EXCERPT_BYTES)
    assert receiver.sent_bytes < 50_000_000


def test_an_excerpt_is_text_that_a_database_can_hold(egress: Egress, receiver: Receiver) -> None:
    assert egress.post(receiver.url("/nul"), BODY, HEADERS, 5).body_excerpt == "a\N{REPLACEMENT CHARACTER}b�c"


def test_a_redirect_is_an_answer_and_is_not_followed(egress: Egress, receiver: Receiver) -> None:
    assert egress.post(receiver.url("/redirect"), BODY, HEADERS, 5).status == 302
    assert [request.path for request in receiver.received] == ["/redirect"]


@pytest.mark.parametrize("path", ["/garbage", "/close"])
def test_what_does_not_speak_http_is_a_bad_response(egress: Egress, receiver: Receiver, path: str) -> None:
    assert failure(egress, receiver.url(path)) is EgressCode.BAD_RESPONSE


def test_a_closed_port_is_a_failure_to_connect() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes it, nobody answers
        port = unused.getsockname()[1]
        assert failure(Egress(["127.0.0.1"]), f"http://127.0.0.1:{port}/") is EgressCode.CONNECT_FAILED


def test_the_next_address_is_tried_where_one_does_not_answer(receiver: Receiver) -> None:
    addresses = [ip_address("127.0.0.9"), ip_address("127.0.0.1")]  # the receiver listens on the second alone
    egress = Egress(["127.0.0.1", "127.0.0.9"], lambda _name, _port: addresses)
    assert egress.post(receiver.url("/200", host="receiver.test"), BODY, HEADERS, 5).status == 200


def test_a_proxy_of_the_environment_is_not_used(
    egress: Egress, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert egress.post(receiver.url("/200"), BODY, HEADERS, 5).status == 200


def test_the_connection_goes_to_the_checked_address_without_another_look_up(receiver: Receiver) -> None:
    """The name exists nowhere but in the resolver given, which answers once: a second look-up would fail."""
    answers = [[ip_address("127.0.0.1")]]
    egress = Egress([f"127.0.0.1:{receiver.port}"], lambda _name, _port: answers.pop())
    assert egress.post(receiver.url("/200", host="rebinding.test"), BODY, HEADERS, 5).status == 200
    assert receiver.received[0].headers["host"] == f"rebinding.test:{receiver.port}"


def test_nothing_reaches_a_receiver_that_is_not_allowed(receiver: Receiver) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(EgressRefused):
            Egress(["10.0.0.0/8"]).post(receiver.url("/200", host=host), BODY, HEADERS, 5)
    assert receiver.received == []


def test_localhost_is_found_by_the_system_and_called_where_it_is_allowed(receiver: Receiver) -> None:
    for allow in (f"localhost:{receiver.port}", "127.0.0.1"):
        assert Egress([allow]).post(receiver.url("/200", host="localhost"), BODY, HEADERS, 5).status == 200


@pytest.mark.parametrize(
    ("trusted", "names", "accepted"),
    [(False, ("127.0.0.1",), False), (True, ("receiver.test",), False), (True, ("127.0.0.1",), True)],
    ids=["self-signed", "for another name", "trusted and for this name"],
)
def test_a_certificate_must_be_trusted_and_name_the_receiver(
    trusted: bool, names: tuple[str, ...], accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = self_signed(tmp_path, *names)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with running_receiver(tls=context) as receiver:
        egress, url = Egress(["127.0.0.1"]), f"https://127.0.0.1:{receiver.port}/200"
        if accepted:
            assert egress.post(url, BODY, HEADERS, 5).status == 200
        else:
            assert failure(egress, url) is EgressCode.TLS_FAILED
            assert receiver.received == []


def test_a_name_is_verified_and_announced_though_the_connection_goes_to_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = self_signed(tmp_path, "receiver.test")
    announced: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: announced.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with running_receiver(tls=context) as receiver:
        egress = Egress(["127.0.0.1"], lambda _name, _port: [ip_address("127.0.0.1")])
        assert egress.post(f"https://receiver.test:{receiver.port}/200", BODY, HEADERS, 5).status == 200
    assert announced == ["receiver.test"]


def test_a_handshake_that_hangs_is_left_when_the_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        begun = time.monotonic()
        assert failure(Egress(["127.0.0.1"]), url, timeout=0.6) is EgressCode.TIMEOUT
        assert time.monotonic() - begun < 2
