"""`distildire egress check`: what it says of a URL, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from deploy.cli import main


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.delenv("DISTILDIRE_EGRESS_ALLOW", raising=False)
    return CliRunner()


def checked(runner: CliRunner, url: str, *options: str) -> dict[str, Any]:
    result = runner.invoke(main, ["egress", "check", url, "--json", *options])
    document: dict[str, Any] = json.loads(result.output)
    assert result.exit_code == (0 if document["allowed"] else 1)
    return document


@pytest.mark.parametrize(
    ("url", "kind", "network", "would_open"),
    [
        ("https://127.0.0.1:9000/", "loopback", "127.0.0.0/8", "127.0.0.1:9000"),
        ("https://10.1.2.3/", "private", "10.0.0.0/8", "10.1.2.3:443"),
        ("https://100.100.100.200/", "metadata", "100.100.100.200/32", "100.100.100.200:443"),
        ("https://169.254.169.254/", "metadata", "169.254.169.254/32", "169.254.169.254:443"),
        ("https://[64:ff9b::7f00:1]/", "embedded", "64:ff9b::/96", "[64:ff9b::7f00:1]:443"),
        ("https://[fe80::1]/", "link_local", "fe80::/10", "[fe80::1]:443"),
        ("https://[fd00::7]:8443/", "private", "fc00::/7", "[fd00::7]:8443"),
    ],
)
def test_a_refusal_names_address_rule_and_range_and_the_entry_that_would_open_it(
    runner: CliRunner, url: str, kind: str, network: str, would_open: str
) -> None:
    document = checked(runner, url)
    (address,) = document["addresses"]
    assert document["code"] == address["code"] == "address_not_allowed"
    assert (address["kind"], address["range"], address["would_open"]) == (kind, network, would_open)
    opened = checked(runner, url, "--allow", would_open)
    assert opened["addresses"][0]["opened_by"] == would_open


def test_plain_http_to_a_public_address_is_refused_until_it_is_allowed(runner: CliRunner) -> None:
    document = checked(runner, "http://93.184.215.14/")
    assert (document["code"], document["addresses"][0]["would_open"]) == ("https_required", "93.184.215.14:80")
    assert checked(runner, "https://93.184.215.14/")["allowed"]


def test_a_url_that_may_never_be_called_is_refused_before_any_look_up(runner: CliRunner) -> None:
    document = checked(runner, "https://2130706433/")
    assert (document["code"], document["host"], document["addresses"]) == ("odd_address", None, [])


def test_the_environment_says_what_is_allowed(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILDIRE_EGRESS_ALLOW", "10.0.0.0/8, 127.0.0.1:9000")
    assert checked(runner, "http://10.1.2.3/")["addresses"][0]["opened_by"] == "10.0.0.0/8"
    assert not checked(runner, "http://127.0.0.1:9001/")["allowed"]


def test_people_are_told_the_same_in_words(runner: CliRunner) -> None:
    result = runner.invoke(main, ["egress", "check", "https://10.1.2.3/"])
    assert result.exit_code == 1
    for word in ("address_not_allowed", "10.1.2.3", "a private address", "10.0.0.0/8", "would open it"):
        assert word in result.output
    result = runner.invoke(main, ["egress", "check", "https://93.184.215.14/"])
    assert result.exit_code == 0
    assert "allowed" in result.output


def test_a_malformed_entry_is_wrong_usage(runner: CliRunner) -> None:
    result = runner.invoke(main, ["egress", "check", "https://10.1.2.3/", "--allow", "10.0.0.0/99"])
    assert result.exit_code == 2
    assert "10.0.0.0/99" in result.output
