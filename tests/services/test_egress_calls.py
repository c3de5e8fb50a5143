"""The egress guard's calls, against real receivers on loopback that the operator allows."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from shared.egress.ip_ranges import IPAddress
from shared.egress.url_policy import EgressCode, EgressRefused
from tests.support.receivers import Authority, Receiver, running_receiver
from worker.egress.http_client import EXCERPT_BYTES, Egress, EgressFailed

HEADERS = {"Content-Type": "application/json", "webhook-id": "msg_1"}
BODY = '{"type": "job.succeeded", "ü": "\\u0000"}'.encode()


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
    assert request.headers["connection"] == "close"
    assert request.headers["content-length"] == str(len(BODY))


def test_a_receiver_on_ipv6_is_called_by_its_bracketed_host() -> None:
    with running_receiver(host="::1") as receiver:
        Egress([f"[::1]:{receiver.port}"]).post(receiver.url("/200", host="[::1]"), BODY, HEADERS, 5)
    assert receiver.received[0].headers["host"] == f"[::1]:{receiver.port}"


@pytest.mark.parametrize("path", ["/hang", "/drip-head", "/drip-body", "/drip-1xx"])
def test_a_slow_receiver_is_left_when_the_time_is_over(egress: Egress, receiver: Receiver, path: str) -> None:
    begun = time.monotonic()
    assert failure(egress, receiver.url(path), timeout=0.6) is EgressCode.TIMEOUT
    assert 0.5 < time.monotonic() - begun < 2
    while not receiver.received:  # a machine that is busy may read the request only now
        assert time.monotonic() - begun < 10
        time.sleep(0.01)


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


@pytest.mark.parametrize("path", ["/endless-line", "/endless-headers", "/endless-1xx", "/endless-extension"])
def test_an_answer_that_does_not_come_to_its_body_is_left_after_some_kilobytes(
    egress: Egress, receiver: Receiver, path: str
) -> None:
    assert failure(egress, receiver.url(path), timeout=15) is EgressCode.BAD_RESPONSE
    assert receiver.sent_bytes < 20_000_000  # what the sockets between us hold


@pytest.mark.parametrize("path", ["/bad-chunks", "/cut-off"])
def test_a_body_that_breaks_the_rules_is_a_bad_response(egress: Egress, receiver: Receiver, path: str) -> None:
    assert failure(egress, receiver.url(path)) is EgressCode.BAD_RESPONSE


def test_a_reset_is_a_lost_connection(egress: Egress, receiver: Receiver) -> None:
    assert failure(egress, receiver.url("/reset")) is EgressCode.CONNECTION_LOST


def test_a_packed_body_is_not_unpacked(egress: Egress, receiver: Receiver) -> None:
    response = egress.post(receiver.url("/gzip-bomb"), BODY, HEADERS, 5)
    assert response.status == 200
    assert len(response.body_excerpt) <= EXCERPT_BYTES
    assert response.body_excerpt[:2] == "\x1f\N{REPLACEMENT CHARACTER}"  # how gzip begins


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


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that the guard believes, and no other."""
    trusted = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.file))
    return trusted


def loopback(_name: str, _port: int) -> list[IPAddress]:
    return [ip_address("127.0.0.1")]


def test_a_receiver_on_https_is_believed_by_its_name_though_it_is_called_by_its_address(authority: Authority) -> None:
    context = authority.server("receiver.test")
    announced: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: announced.append(name)
    with running_receiver(tls=context) as receiver:
        url = f"https://receiver.test:{receiver.port}/200"
        egress = Egress(["127.0.0.1"], loopback)
        assert egress.post(url, BODY, HEADERS, 5).status == 200
        assert egress.connect(egress.check(url), 5) == ip_address("127.0.0.1")
    assert announced == ["receiver.test"] * 2
    assert receiver.received[0].host_lines == [f"receiver.test:{receiver.port}"]


def test_authorities_that_cannot_be_read_are_named_as_the_fault(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    with running_receiver(tls=authority.server("receiver.test")) as receiver:
        egress, url = Egress(["127.0.0.1"], loopback), f"https://receiver.test:{receiver.port}/200"
        with pytest.raises(EgressFailed, match="SSL_CERT_FILE or SSL_CERT_DIR names holds no authorities"):
            egress.post(url, BODY, HEADERS, 5)
    assert receiver.received == []


def test_a_certificate_may_be_for_an_address(authority: Authority) -> None:
    with running_receiver(tls=authority.server("127.0.0.1")) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/200"
        assert Egress(["127.0.0.1"]).post(url, BODY, HEADERS, 5).status == 200


@pytest.mark.parametrize(
    ("names", "days"),
    [
        (("other.test",), 1),
        (("127.0.0.1",), 1),  # that of the address at which it is called: the name counts
        (("*.receiver.test",), 1),
        (("receiver.test.other.test",), 1),
        (("receiver.test",), -1),
    ],
    ids=["another name", "its address", "names below", "a longer name", "ended"],
)
def test_a_certificate_for_anything_else_gets_nothing(authority: Authority, names: tuple[str, ...], days: int) -> None:
    with running_receiver(tls=authority.server(*names, days=days)) as receiver:
        egress, url = Egress(["127.0.0.1"], loopback), f"https://receiver.test:{receiver.port}/200"
        assert failure(egress, url) is EgressCode.TLS_FAILED
        with pytest.raises(EgressFailed):
            egress.connect(egress.check(url), 5)
        assert receiver.received == []


@pytest.mark.usefixtures("authority")
def test_a_certificate_of_an_authority_that_nobody_knows_gets_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    with running_receiver(tls=stranger.server("receiver.test")) as receiver:
        egress = Egress(["127.0.0.1"], loopback)
        assert failure(egress, f"https://receiver.test:{receiver.port}/200") is EgressCode.TLS_FAILED
        assert receiver.received == []


def test_a_handshake_that_drips_is_left_when_the_time_is_over() -> None:
    def drip(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KB, of which a byte comes now and then
                while not over.wait(0.05):
                    connection.sendall(b"\x02")

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,), daemon=True)
        dripping.start()
        begun = time.monotonic()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        assert failure(Egress(["127.0.0.1"]), url, timeout=0.6) is EgressCode.TIMEOUT
        assert time.monotonic() - begun < 2
        over.set()
        dripping.join()


def test_a_handshake_that_hangs_is_left_when_the_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        begun = time.monotonic()
        assert failure(Egress(["127.0.0.1"]), url, timeout=0.6) is EgressCode.TIMEOUT
        assert time.monotonic() - begun < 2
