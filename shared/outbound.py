"""HTTP clients for the command. They use the proxies and certificate authorities of the user's environment.

Used by the command alone. The service's own calls know no proxy: `worker/egress/http_client.py` connects to the very
addresses that it has checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any
from urllib.request import proxy_bypass

import httpx

from shared.errors import DistildireError

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class OutboundError(DistildireError):
    """HTTP cannot be used because of an environment variable."""


def open_client(url: str, **options: Any) -> httpx.Client:
    """Return a client for `url`, and for where its redirects lead.

    Raises:
        OutboundError: an environment variable for proxies or authorities is wrong; the message names it.
    """
    direct = {f"all://{host}": None for host in _LOOPBACK}
    try:
        return httpx.Client(**options, trust_env=not _is_here(url), mounts=direct)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise OutboundError(_what_is_wrong(error)) from error


def by_which_proxy(url: str) -> str:
    """Return a phrase that names the proxy for `url`, to be put after a verb; "" if requests use no proxy."""
    found = _proxy_of(httpx.URL(url))
    return f" through the proxy {_shown(found[1])}, which {found[0]} names" if found else ""


def _is_here(url: str) -> bool:
    """Whether `url` leads to this machine. Such requests use no proxy and need no private certificate authority."""
    host = httpx.URL(url).host
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _proxy_of(url: httpx.URL) -> tuple[str, str] | None:
    """Return the variable, and its value, from which httpx takes the proxy for a URL."""
    if _is_here(str(url)) or proxy_bypass(url.host):
        return None
    wanted = (f"{url.scheme}_proxy", "all_proxy")
    return next(((name, value) for kind in wanted for name, value in _set() if name.lower() == kind), None)


def _set() -> Iterator[tuple[str, str]]:
    kinds = ("http_proxy", "https_proxy", "all_proxy")
    # If both are set, the lower-case name takes precedence.
    names = (name for kind in kinds for name in (kind, kind.upper()))
    return ((name, value) for name in names if (value := os.environ.get(name)))


def _what_is_wrong(error: Exception) -> str:
    """Return a message that says which variable caused `error` and how to correct it."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (place := os.environ.get(name)) and not os.access(place, os.R_OK):
            return f"{name} names {place}, which cannot be read. Correct it or unset it."
    for name, value in _set():
        try:
            httpx.HTTPTransport(proxy=value if "://" in value else f"http://{value}", verify=False)
        except ImportError:
            return (
                f"{name} names the SOCKS proxy {_shown(value)}, which needs a package that is not installed. Add it "
                'with `pip install "httpx[socks]"`, name an HTTP proxy, or unset the variable.'
            )
        except (ValueError, httpx.InvalidURL):
            return f"{name} does not name a proxy that can be used. Correct it or unset it."
    #: The certificate authorities, in a file or a folder, that verify the receivers of webhooks and the command's API.
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return f"SSL_CERT_FILE or SSL_CERT_DIR holds no certificate authorities ({error}). Correct it or unset it."
    return f"HTTP cannot be used: {error}"


def _shown(proxy: str) -> str:
    """Return the proxy's URL without the user and password that it may contain."""
    return proxy.rpartition("@")[2] if "@" in proxy else proxy
