"""The nginx configuration of the documentation, where no nginx is needed."""

from __future__ import annotations

import pytest

from shared.settings import Settings
from tests.support.nginx import directives, documented

#: Where nginx allows each directive that the page uses (from nginx's own reference); "" is a file in `conf.d`.
ALLOWED = {
    "limit_conn_zone": {""},
    "limit_req_zone": {""},
    "server": {""},
    "listen": {"server"},
    "server_name": {"server"},
    "ssl_certificate": {"", "server"},
    "ssl_certificate_key": {"", "server"},
    "client_header_timeout": {"", "server"},
    "client_body_timeout": {"", "server", "location"},
    "client_max_body_size": {"", "server", "location"},
    "limit_conn": {"", "server", "location"},
    "limit_req": {"", "server", "location"},
    "limit_conn_status": {"", "server", "location"},
    "limit_req_status": {"", "server", "location"},
    "location": {"server"},
    "proxy_pass": {"location"},
    "proxy_http_version": {"", "server", "location"},
    "proxy_set_header": {"", "server", "location"},
    "proxy_request_buffering": {"", "server", "location"},
    "deny": {"", "server", "location"},
}


def test_each_directive_stands_where_nginx_allows_it() -> None:
    misplaced = [
        found.words
        for found in directives(documented())
        if ("" if not found.blocks else found.blocks[-1]) not in ALLOWED[found.words[0]]
    ]
    assert not misplaced


def test_zones_are_made_before_they_are_used() -> None:
    made: set[str] = set()
    for found in directives(documented()):
        kind, *rest = found.words
        if kind.endswith("_zone"):
            made |= {kind.removesuffix("_zone") + word.partition("=")[2].partition(":")[0] for word in rest[1:2]}
        elif kind in ("limit_conn", "limit_req"):
            assert kind + rest[0].removeprefix("zone=") in made


def test_the_proxy_takes_whatever_the_api_takes() -> None:
    (size,) = [found.words[1] for found in directives(documented()) if found.words[0] == "client_max_body_size"]
    assert int(size.removesuffix("m")) << 20 > Settings.model_fields["max_upload_bytes"].default + 100_000


@pytest.mark.parametrize("broken", ["server {", "}", "a b", "a; }", "a { ; }"])
def test_what_is_not_well_formed_is_seen(broken: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        directives(broken)
