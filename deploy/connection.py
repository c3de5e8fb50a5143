"""Which API, and which servers, a command talks to: what the environment says, else the stack of the data directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx

from deploy.local.stack_file import StackDocument, running_stack
from shared.client import Client

if TYPE_CHECKING:  # the base install has no pydantic
    from shared.settings import Settings

#: The API that commands talk to, as `http://host:port`; set it together with `DISTILDIRE_API_KEY`. Without both, it is
#: the stack of the data directory.
_URL = "DISTILDIRE_API_URL"
#: The API key that commands use.
_KEY = "DISTILDIRE_API_KEY"
_HOST = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_RETRY_SECONDS = 10  # an API that restarts is back by then; a person who mistyped its address should not wait longer


def connect(data_dir: Path, *, capacity_retry_seconds: float = _RETRY_SECONDS) -> Client:
    """Return a client of the API that the environment names, else of the stack that runs in `data_dir`.

    It waits at most `capacity_retry_seconds` while too many jobs are open.
    """
    url, key = os.environ.get(_URL), os.environ.get(_KEY)
    if url and key:
        _check_url(url)
        _check_key(key)
        return Client(url, key, retry_seconds=_RETRY_SECONDS, capacity_retry_seconds=capacity_retry_seconds)
    if url or key:
        raise click.ClickException(f"Set both {_URL} and {_KEY}, or neither.")
    document = running_stack(data_dir)
    if document is None:
        raise click.ClickException(
            f"No API is known: set {_URL} and {_KEY}, or start the service on this machine with `distildire up` "
            f"(nothing runs in {data_dir}; --data-dir names another place)."
        )
    if not document.has_api:
        raise click.ClickException(f"The API of {data_dir} has ended. `distildire up` starts what is missing.")
    return Client(
        document.api_url, document.api_key, retry_seconds=_RETRY_SECONDS, capacity_retry_seconds=capacity_retry_seconds
    )


def _check_url(url: str) -> None:
    """Refuse what is not the address of an API, and parts of a URL that the client would send or drop unnoticed."""
    try:
        parts = httpx.URL(url)
        usable = parts.scheme in ("http", "https") and bool(_HOST.fullmatch(parts.raw_host))
        usable &= parts.port is None or 0 < parts.port < 65536
    except (httpx.InvalidURL, ValueError):  # idna's errors are ValueErrors
        parts, usable = httpx.URL(), False
    if not usable:
        raise click.ClickException(
            f"{_URL} is not the URL of an API. It must begin with http:// or https:// and name a host, as in "
            "http://127.0.0.1:8000."
        )
    if parts.userinfo or parts.query or parts.fragment:
        raise click.ClickException(f"{_URL} holds more than an address: leave out user, password, query and fragment.")


def _check_key(key: str) -> None:
    """Refuse characters that no key has, such as a line end that was copied too. The message does not show the key."""
    strange = next((place for place, sign in enumerate(key, 1) if not "!" <= sign <= "~"), None)
    if strange is not None:
        raise click.ClickException(
            f"{_KEY} is no API key: its character {strange} of {len(key)} is a space, a line's end or no ASCII. Set it "
            "anew, without what came along."
        )


def server_settings(data_dir: Path) -> Settings:
    """Return the servers' settings: those of the stack that runs in `data_dir`, where the environment has none.

    Raises:
        SettingsError: there is neither, or a setting of the environment is wrong.
    """
    from deploy.local.credentials import load_credentials
    from shared.settings import Settings, SettingsError

    try:
        return Settings.read()
    except SettingsError as error:
        if "DISTILDIRE_DATABASE_URL" in os.environ:
            raise
        document = running_stack(data_dir)
        if document is None:
            raise SettingsError(
                f"No stack runs in {data_dir}: start one with `distildire up`, or name its place with --data-dir.\n"
                f"For servers of your own: {error.message[0].lower()}{error.message[1:]}"
            ) from error
        return Settings.read(**_values(document), secret_key=load_credentials(data_dir).secret_key)


def _values(document: StackDocument) -> dict[str, str]:
    servers = {"database_url": document.database_url, "redis_url": document.redis_url}
    return servers | {f"s3_{name}": value for name, value in document.s3.items()}
