"""Checks of the servers' addresses before anything connects. No error message repeats the given value.

Libraries silently accept wrong addresses: minio drops the path of an endpoint, SQLAlchemy takes the URL of a MySQL
server for PostgreSQL's, kombu connects to this machine if the URL names no host. Or they print the password in a
traceback.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn

_ESCAPES = "In a user name or password, write characters such as / # ? @ : as %2F %23 %3F %40 %3A."
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


def check_database(url: str) -> None:
    """Raise `ValueError` if this is not the URL of a PostgreSQL database."""
    parts = _split(url, ("postgresql", "postgres", "postgresql+psycopg2"), "postgresql://user:password@host:port/name")
    given = parse_qs(parts.query)
    if not parts.hostname and "host" not in given:
        raise ValueError("it names no host, as in postgresql://user:password@host:port/name")
    if not parts.path.strip("/") and "dbname" not in given:
        raise ValueError("it names no database, as in postgresql://user:password@host:port/name")
    try:
        parse_dsn(f"postgresql://host/name?{parts.query}")
    except psycopg2.Error as error:
        unknown = next((name for name in given if f'"{name}"' in str(error)), None)
        what = f"the parameter {unknown!r}" if unknown else "the part after the ?"
        raise ValueError(f"PostgreSQL does not know {what} in it") from None


def check_redis(url: str) -> None:
    """Raise `ValueError` if this is not the URL of a Redis database."""
    form = "redis://:password@host:port/0"
    parts = _split(url, ("redis", "rediss"), form)
    if not parts.hostname:
        raise ValueError(f"it names no host, as in {form}")
    if not re.fullmatch(r"/?\d{0,5}", parts.path):
        raise ValueError(f"after the host it must have the number of a database, as in {form}")


def check_endpoint(url: str) -> None:
    """Raise `ValueError` if this is not the endpoint of an object store: a scheme, a host, and perhaps a port."""
    parts = _split(url, ("http", "https"), "http://host:port")
    if not parts.hostname:
        raise ValueError("it names no host, as in http://host:port")
    if "@" in parts.netloc:
        raise ValueError("it contains a user or password; the store's keys are separate settings")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("it has a path, which S3 does not use: give only the scheme, the host and the port")


def check_origin(origin: str) -> None:
    """Raise `ValueError` where a browser would never name this as a page's origin: it compares texts, not URLs."""
    form = "https://dashboard.example"
    parts = _split(origin, ("https", "http"), form)
    if origin != f"{parts.scheme}://{parts.netloc}" or origin != origin.lower() or "@" in parts.netloc:
        raise ValueError(f"an origin is a scheme, a host in small letters, and perhaps a port, as in {form}")
    if (parts.scheme, parts.port) in {("https", 443), ("http", 80)}:
        raise ValueError(f"browsers leave out the scheme's own port: write it as in {form}")


def check_bucket(name: str) -> None:
    """Raise `ValueError` if this is not a valid name of an S3 bucket."""
    if not _BUCKET.fullmatch(name) or ".." in name or _ADDRESS.fullmatch(name):
        raise ValueError("a bucket's name is 3 to 63 lower-case letters, digits, dots and hyphens, as in distildire")


def check_secret(secret: str) -> None:
    """Raise `ValueError` for a secret that was copied with surrounding spaces, a line break or invisible characters."""
    if secret != secret.strip() or not secret.isprintable():
        raise ValueError("it begins or ends with a space or line break, or contains an invisible character")


def _split(url: str, schemes: Sequence[str], form: str) -> SplitResult:
    check_secret(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"it is not a URL of the form {form}. {_ESCAPES}") from None
    if parts.scheme not in schemes or "://" not in url:
        raise ValueError(f"it must begin with {schemes[0]}://, as in {form}")
    if port == 0:
        raise ValueError(f"its port is 0; the URL has the form {form}")
    if parts.hostname and not re.fullmatch(r"[\w.,:%/-]+", unquote(parts.hostname)):
        raise ValueError(f"its host contains a character that no host has; the URL has the form {form}. {_ESCAPES}")
    return parts
