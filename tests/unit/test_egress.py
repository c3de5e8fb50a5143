"""The egress guard's judgement: every form of address against a resolver of our own, without a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.egress.ip_ranges import IPAddress
from shared.egress.url_policy import AllowList, EgressCode, EgressRefused, decide, parse, require_https
from worker.egress.http_client import EXCERPT_BYTES, Egress, EgressFailed, _excerpt, system_resolver

PUBLIC = "93.184.215.14"


def guard(*allow: str, **names: str) -> Egress:
    """Return a guard whose resolver knows `receiver.test` and what is given; underscores stand for full stops."""
    known = {name.replace("_", "."): found for name, found in names.items()}

    def resolver(host: str, port: int) -> Sequence[IPAddress]:
        return [ip_address(text) for text in known[host].split()]

    return Egress(allow, resolver)


def refusal(egress: Egress, url: str) -> EgressCode:
    with pytest.raises(EgressRefused) as caught:
        egress.check(url)
    assert caught.value.message.endswith(".")
    assert caught.value.message != EgressRefused.__doc__, "it says nothing of this URL"
    return caught.value.code


def words(text: str) -> list[str]:
    return text.split()


DENIED_ADDRESSES = words("""
    127.0.0.1 127.255.255.254 127.0.0.53 0.0.0.0 0.1.2.3
    10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255
    100.64.0.1 100.127.255.254 100.100.100.200
    169.254.169.254 169.254.170.2 169.254.0.1 168.63.129.16 192.0.0.192 192.0.0.1
    192.0.2.1 198.51.100.7 203.0.113.9 198.18.0.1 198.19.255.255
    192.31.196.1 192.52.193.1 192.175.48.1 192.88.99.1
    224.0.0.1 239.255.255.255 233.252.0.1 240.0.0.1 255.255.255.255
    ::1 :: ::127.0.0.1 ::10.0.0.1 ::93.184.215.14
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:93.184.215.14 ::ffff:0:127.0.0.1
    64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::5db8:d70e 64:ff9b:1::1 64:ff9b:1:ffff::1
    2002:7f00:1::1 2002:5db8:d70e::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:20::1 2001:1::1
    2001:db8::1 3fff::1 100::1 5f00::1 2620:4f:8000::1 4000::1 1::1 8000::1
    fc00::1 fd00::1 fd00:ec2::254 fd20:ce::254 fdff:ffff::1 fe80::1 febf::1 fec0::1 feff::1 ff02::1 ff0e::1
""")

PUBLIC_ADDRESSES = words("""
    93.184.215.14 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
    168.63.129.15 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255
    198.20.0.0 223.255.255.255 2606:2800:21f:cb07:6820:80da:af6b:8b2c 2001:200::1 2001:4860:4860::8888 2a00::1 2003::1
""")


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("address", DENIED_ADDRESSES)
def test_an_inner_address_is_refused_as_literal_and_behind_a_name(address: str) -> None:
    assert refusal(guard(), f"https://{bracketed(address)}/hook") is EgressCode.ADDRESS_NOT_ALLOWED
    assert refusal(guard(receiver_test=address), "https://receiver.test/hook") is EgressCode.ADDRESS_NOT_ALLOWED


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_a_public_address_beside_the_denied_ranges_is_admitted(address: str) -> None:
    for url in (f"https://{bracketed(address)}/hook", "https://receiver.test/hook"):
        assert guard(receiver_test=address).check(url).addresses == (ip_address(address),)


@pytest.mark.parametrize(
    "host",
    words("""
    2130706433 0x7f000001 017700000001 0177.0.0.1 127.1 127.0.1 0x7f.1 0x7f.0.0.1 0X7F.0.0.1 127.0.0.01 00.0.0.0
    1.2.3.4.5 256.1.1.1 0 0x 4294967296 2852039166 169.254.43518 127.0.0.0x1 93.184.215.014 1.example.1 3232235521.
    127.0.0.1.. [fe80::1%25eth0] [fe80::1%25lo]
    """),
)
def test_an_odd_form_of_an_address_is_refused_before_any_look_up(host: str) -> None:
    assert refusal(guard(), f"https://{host}/hook") in {EgressCode.ODD_ADDRESS, EgressCode.INVALID_URL}


@pytest.mark.parametrize("host", ["127。0。0。1", "127.0.0.1", "127.0.0.1.", "LOCALHOST", "localhost."])
def test_another_spelling_of_loopback_is_loopback(host: str) -> None:
    assert refusal(guard(localhost="127.0.0.1"), f"https://{host}/") is EgressCode.ADDRESS_NOT_ALLOWED


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://receiver.test/", EgressCode.SCHEME_NOT_ALLOWED),
        ("file:///etc/passwd", EgressCode.SCHEME_NOT_ALLOWED),
        ("gopher://receiver.test/", EgressCode.SCHEME_NOT_ALLOWED),
        ("javascript:alert(1)", EgressCode.SCHEME_NOT_ALLOWED),
        ("//receiver.test/", EgressCode.SCHEME_NOT_ALLOWED),
        ("receiver.test/hook", EgressCode.SCHEME_NOT_ALLOWED),
        ("", EgressCode.SCHEME_NOT_ALLOWED),
        ("https://user:password@receiver.test/", EgressCode.CREDENTIALS_IN_URL),
        ("https://user@receiver.test/", EgressCode.CREDENTIALS_IN_URL),
        ("https://@receiver.test/", EgressCode.CREDENTIALS_IN_URL),
        ("https://user:password@receiver.test//x//y", EgressCode.CREDENTIALS_IN_URL),
        ("https://receiver.test\\@127.0.0.1/", EgressCode.CREDENTIALS_IN_URL),
        ("https://127.0.0.1%2f@receiver.test/", EgressCode.CREDENTIALS_IN_URL),
        ("https:///hook", EgressCode.INVALID_URL),
        ("https:receiver.test", EgressCode.INVALID_URL),
        ("https:\\\\127.0.0.1\\", EgressCode.INVALID_URL),
        ("https://%31%32%37.0.0.1/", EgressCode.ODD_ADDRESS),
        ("https://a b/", EgressCode.INVALID_URL),
        ("https://a..b/", EgressCode.INVALID_URL),
        ("https://-a.test/", EgressCode.INVALID_URL),
        ("https://xn--/", EgressCode.INVALID_URL),
        ("https://[::1/", EgressCode.INVALID_URL),
        ("https://[::g]/", EgressCode.INVALID_URL),
        ("https://receiver.test:0/", EgressCode.INVALID_URL),
        ("https://receiver.test:65536/", EgressCode.INVALID_URL),
        ("https://receiver.test:port/", EgressCode.INVALID_URL),
        ("https://receiver.test/\r\nX-Injected: 1", EgressCode.INVALID_URL),
        ("https://receiver.test/\0", EgressCode.INVALID_URL),
        (f"https://{'a' * 64}.test/", EgressCode.INVALID_URL),
        (f"https://receiver.test/{'a' * 2000}", EgressCode.INVALID_URL),
        ("http://receiver.test/", EgressCode.HTTPS_REQUIRED),
        (f"http://{PUBLIC}/", EgressCode.HTTPS_REQUIRED),
    ],
)
def test_a_url_that_is_not_plain_https_is_refused_with_a_stable_code(url: str, code: EgressCode) -> None:
    assert refusal(guard(receiver_test=PUBLIC), url) is code


@pytest.mark.parametrize(
    "url",
    ["https://receiver.test:1/", "https://receiver.test:65535/", "https://receiver.test/".ljust(2000, "a")],
    ids=["the first port", "the last port", "the longest"],
)
def test_what_is_just_within_the_limits_is_admitted(url: str) -> None:
    assert guard(receiver_test=PUBLIC).check(url).addresses == (ip_address(PUBLIC),)


@pytest.mark.parametrize("rest", ["/a@b", "?to=a@b", "/#a@b"])
def test_an_at_sign_after_the_host_is_no_password(rest: str) -> None:
    assert guard(receiver_test=PUBLIC).check(f"https://receiver.test{rest}").addresses == (ip_address(PUBLIC),)


def test_a_url_that_is_one_character_too_long_is_refused() -> None:
    assert refusal(guard(), "https://receiver.test/".ljust(2001, "a")) is EgressCode.INVALID_URL


def test_who_is_to_be_called_by_https_is_named() -> None:
    with pytest.raises(EgressRefused, match=r"^receiver\.test must be called by https://"):
        guard(receiver_test=PUBLIC).check("http://receiver.test/")


@pytest.mark.parametrize(
    ("url", "allow", "refused"),
    [
        ("http://receiver.test/", "", True),
        ("http://receiver.test:8080/", "receiver.test:8081 other.test:8080", True),
        ("http://receiver.test:8080/", "receiver.test:8080", False),
        ("http://receiver.test/", "10.0.0.0/8", False),  # it may lead there: that is seen when it is called
        ("http://receiver.test/", "10.1.2.3", False),
        ("http://10.1.2.3/", "", False),  # an address is judged by itself
        ("https://receiver.test/", "", False),
        ("https://10.1.2.3/", "", False),
    ],
)
def test_before_a_look_up_plain_http_is_refused_that_no_entry_can_allow(url: str, allow: str, refused: bool) -> None:
    destination, allowed = parse(url), AllowList.parse(allow.split())
    if not refused:
        require_https(destination, allowed)
        return
    with pytest.raises(EgressRefused, match=r"^receiver\.test must be called by https://") as caught:
        require_https(destination, allowed)
    assert caught.value.code is EgressCode.HTTPS_REQUIRED


@pytest.mark.parametrize(
    ("url", "resolved", "would_open"),
    [
        ("https://receiver.test/", "10.1.2.3", "receiver.test:443"),
        ("https://receiver.test:8443/", "192.0.2.1", "receiver.test:8443"),
        ("https://receiver.test/", "127.0.0.1", "127.0.0.1:443"),  # by a name nobody opens the machine itself
        ("https://receiver.test/", "fe80::1", "[fe80::1]:443"),
        ("http://receiver.test/", PUBLIC, "receiver.test:80"),
        ("https://receiver.test/", PUBLIC, None),
    ],
)
def test_the_narrowest_entry_that_would_open_an_address_is_told_and_does(
    url: str, resolved: str, would_open: str | None
) -> None:
    destination, address = parse(url), ip_address(resolved)
    (decision,) = decide(destination, [address], AllowList())
    assert (decision.would_open, decision.refusal is None) == (would_open, would_open is None)
    (opened,) = decide(destination, [address], AllowList.parse([would_open] if would_open else []))
    assert (opened.refusal, opened.opened_by, opened.would_open) == (None, would_open, None)


def test_one_inner_address_among_public_ones_refuses_the_name() -> None:
    for found in (f"{PUBLIC} 10.0.0.1", f"10.0.0.1 {PUBLIC}", f"{PUBLIC} ::ffff:10.0.0.1", f"2a00::1 {PUBLIC} ::1"):
        assert refusal(guard(receiver_test=found), "https://receiver.test/") is EgressCode.ADDRESS_NOT_ALLOWED


def test_a_refusal_does_not_tell_what_a_name_resolves_to() -> None:
    with pytest.raises(EgressRefused) as caught:
        guard(receiver_test="10.20.30.40").check("https://receiver.test/")
    assert "10.20.30.40" not in caught.value.message
    assert "private" in caught.value.message


@pytest.mark.parametrize(
    ("allow", "url", "resolved"),
    [
        ("10.1.2.3", "http://10.1.2.3/", ""),
        ("10.1.2.3", "https://10.1.2.3:8443/", ""),
        ("10.1.2.3:9000", "http://10.1.2.3:9000/", ""),
        ("10.0.0.0/8", "http://10.200.1.1:9000/", ""),
        ("10.0.0.0/8", "http://receiver.test:9000/", "10.200.1.1"),
        ("10.0.0.0/8", "https://receiver.test/", f"10.200.1.1 {PUBLIC}"),
        ("fd00::/8", "http://[fd00::7]:9000/", ""),
        ("fd00::7", "http://[fd00::7]:9000/", ""),
        ("[fd00::7]:9000", "http://[fd00::7]:9000/", ""),
        ("100.64.0.0/10", "http://100.64.1.1/", ""),
        ("0.0.0.0/0", "http://192.168.1.1/", ""),
        ("127.0.0.1", "http://127.0.0.1:9000/", ""),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/", ""),
        ("127.0.0.1:9000", "http://receiver.test:9000/", "127.0.0.1"),
        ("::1", "http://[::1]:9000/", ""),
        ("[::1]:9000", "http://[::1]:9000/", ""),
        ("localhost:9000", "http://localhost:9000/", "127.0.0.1 ::1"),
        ("LOCALHOST:9000", "http://localhost.:9000/", "127.0.0.1"),
        ("hooks.localhost:9000", "http://hooks.localhost:9000/", "127.0.0.1"),
        ("receiver.test:8080", "http://receiver.test:8080/", "172.18.0.5"),
        ("web_hook:8080", "http://web_hook:8080/", "172.18.0.5"),
        ("169.254.169.254", "http://169.254.169.254/", ""),
        ("::ffff:127.0.0.1", "http://[::ffff:127.0.0.1]/", ""),
        (PUBLIC, f"http://{PUBLIC}/", ""),
        ("receiver.test:80", "http://receiver.test/", PUBLIC),
        ("receiver.test:1", "http://receiver.test:1/", PUBLIC),
        ("receiver.test:65535", "http://receiver.test:65535/", PUBLIC),
    ],
)
def test_what_the_operator_allows_is_admitted(allow: str, url: str, resolved: str) -> None:
    host = parse(url).host
    egress = Egress([allow], lambda name, _: [ip_address(text) for text in resolved.split() if name == host])
    admitted = egress.check(url).addresses
    assert admitted
    entry = AllowList.parse([allow])
    for decision in decide(parse(url), admitted, entry):
        if decision.special or "http:" in url:  # what is public needs no entry
            assert decision.opened_by
            assert AllowList.parse([decision.opened_by]) == entry


@pytest.mark.parametrize(
    ("allow", "url", "resolved"),
    [
        ("10.1.2.3", "http://10.1.2.4/", ""),
        ("10.1.2.3:9000", "http://10.1.2.3:9001/", ""),
        ("10.1.2.3:9000", "http://10.1.2.3/", ""),
        ("10.0.0.0/8", "http://192.168.1.1/", ""),
        ("10.0.0.0/8", "https://receiver.test/", "10.200.1.1 192.168.1.1"),
        ("127.0.0.0/8", "http://127.0.0.1/", ""),
        ("127.0.0.1/32", "http://127.0.0.1/", ""),
        ("0.0.0.0/0", "http://127.0.0.1/", ""),
        ("0.0.0.0/0", "http://0.0.0.0/", ""),
        ("0.0.0.0/0", "http://169.254.169.254/", ""),
        ("0.0.0.0/0", "http://169.254.1.1/", ""),
        ("0.0.0.0/0", "http://168.63.129.16/", ""),
        ("0.0.0.0/0", "http://100.100.100.200/", ""),
        ("0.0.0.0/0", "http://[::ffff:10.0.0.1]/", ""),
        ("::/0", "http://[::1]/", ""),
        ("::/0", "http://[::ffff:10.0.0.1]/", ""),
        ("::/0", "http://[64:ff9b::a00:1]/", ""),
        ("::/0", "http://[fe80::1]/", ""),
        ("fc00::/7", "http://[fd00:ec2::254]/", ""),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/", ""),
        ("127.0.0.1", "http://127.0.0.2/", ""),
        ("localhost:9000", "http://localhost:9001/", "127.0.0.1"),
        ("localhost:9000", "http://127.0.0.1:9000/", ""),
        ("localhost:9000", "http://localhost:9000/", "169.254.169.254"),
        ("receiver.test:8080", "http://receiver.test:8080/", "127.0.0.1"),
        ("receiver.test:8080", "http://receiver.test:8080/", "169.254.169.254"),
        ("receiver.test:8080", "http://other.receiver.test:8080/", "172.18.0.5"),
        ("receiver.test:8080", "http://receiver.test:8081/", "172.18.0.5"),
    ],
)
def test_what_the_operator_allows_opens_nothing_beside_it(allow: str, url: str, resolved: str) -> None:
    egress = Egress([allow], lambda _name, _port: [ip_address(text) for text in resolved.split()])
    assert refusal(egress, url) is EgressCode.ADDRESS_NOT_ALLOWED


def test_localhost_means_the_loopback_address_that_is_allowed() -> None:
    found = guard("127.0.0.1:9000", localhost="::1 127.0.0.1").check("http://localhost:9000/")
    assert found.addresses == (ip_address("127.0.0.1"),)


@pytest.mark.parametrize(
    "entry",
    words("""
        localhost 10.0.0.1/8 10.0.0.0/33 http://10.0.0.1 127.1 127.1:80 a:b a:0 a:65536 a:-1 [::1] [::1 :80
        10.0.0.0/8:80 * *.test:80 -a:80 2130706433:80 user@a:80
    """),
)
def test_a_malformed_entry_of_the_allow_list_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="DISTILDIRE_EGRESS_ALLOW") as caught:
        AllowList.parse(["10.0.0.0/8", entry])
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("https://Receiver.Test", "receiver.test", "/"),
        ("https://receiver.test:443/a?b=c#d", "receiver.test", "/a?b=c"),
        ("https://receiver.test:8443/a%2Fb", "receiver.test:8443", "/a%2Fb"),
        ("http://receiver.test:443/", "receiver.test:443", "/"),
        ("https://[2A00::1]:8443/ü?q=ä", "[2a00::1]:8443", "/%C3%BC?q=%C3%A4"),
        ("https://münchen.test/", "xn--mnchen-3ya.test", "/"),
    ],
)
def test_a_url_is_taken_apart_for_the_wire(url: str, authority: str, target: str) -> None:
    destination = parse(url)
    assert (destination.authority, destination.target) == (authority, target)


@given(
    st.text(max_size=60), st.sampled_from(["", "https://", "https://[", "https://127.0.0.1", "http://receiver.test:"])
)
def test_whatever_is_given_as_url_is_parsed_or_refused(text: str, prefix: str) -> None:
    try:
        destination = parse(prefix + text)
    except EgressRefused:
        return
    assert destination.scheme in {"http", "https"}
    assert destination.host.isascii()
    assert destination.target.isprintable()


def test_a_name_is_looked_up_once_so_that_it_cannot_change_its_mind() -> None:
    answers, asked = [[ip_address(PUBLIC)], [ip_address("127.0.0.1")]], []

    def changing(host: str, port: int) -> Sequence[IPAddress]:
        asked.append((host, port))
        return answers.pop(0)

    found = Egress((), changing).check("https://receiver.test:8443/")
    assert found.addresses == (ip_address(PUBLIC),)
    assert asked == [("receiver.test", 8443)]


def test_the_systems_own_resolver_answers_with_each_address_once() -> None:
    assert system_resolver("192.0.2.7", 443) == [ip_address("192.0.2.7")]


def test_a_name_without_an_address_is_a_failure_that_may_pass() -> None:
    def unknown(host: str, port: int) -> Sequence[IPAddress]:
        raise OSError("Name or service not known")

    for resolver, told in ((unknown, "The host's name was not found."), (_nowhere, "The host's name has no address.")):
        with pytest.raises(EgressFailed) as caught:
            Egress((), resolver).check("https://receiver.test/")
        assert (caught.value.code, caught.value.message) == (EgressCode.NAME_NOT_FOUND, told)


def _nowhere(_host: str, _port: int) -> Sequence[IPAddress]:
    return []


def test_a_look_up_that_hangs_is_left_behind() -> None:
    released = threading.Event()
    holds_up_the_end: list[bool] = []

    def hanging(host: str, port: int) -> Sequence[IPAddress]:
        holds_up_the_end.append(not threading.current_thread().daemon)
        released.wait(10)
        return [ip_address(PUBLIC)]

    begun = time.monotonic()
    with pytest.raises(EgressFailed) as caught:
        Egress((), hanging).check("https://receiver.test/", timeout=0.05)
    assert caught.value.code is EgressCode.NAME_TIMEOUT
    assert caught.value.message == "Looking up the host's name took too long."
    assert time.monotonic() - begun < 2
    assert holds_up_the_end == [False]
    with pytest.raises(EgressFailed) as caught:
        Egress((), hanging).post("https://receiver.test/", b"", {}, timeout=0.05)
    assert caught.value.code is EgressCode.NAME_TIMEOUT
    assert time.monotonic() - begun < 4
    released.set()


def test_of_an_answer_the_beginning_is_kept_and_no_more_is_asked_for() -> None:
    def chunks(*sizes: int) -> Iterator[bytes]:
        for number, size in enumerate(sizes):
            assert size, "more was asked for than is kept"
            yield bytes([ord("a") + number]) * size

    assert _excerpt(chunks(3, 2)) == "aaabb"
    assert _excerpt(chunks(EXCERPT_BYTES - 1, 5, 0)) == "a" * (EXCERPT_BYTES - 1) + "b"
    assert _excerpt(chunks(EXCERPT_BYTES, 0)) == "a" * EXCERPT_BYTES


def test_every_reason_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
    assert [code for code in EgressCode if f"`{code}`" not in page] == []
