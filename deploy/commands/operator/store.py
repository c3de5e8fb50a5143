"""`distildire store`."""

from __future__ import annotations

import os

import click

from deploy.store_access import RootKeys, make_bucket, make_user
from deploy.terminal.console import notes
from shared.settings import StoreSettings


@click.group()
def command() -> None:
    """Make the bucket, and keys that open nothing else.

    The environment's S3_ROOT_USER and S3_ROOT_PASSWORD are the store's root keys. Only these commands need them.
    """


@command.command()
def bucket() -> None:
    """Make the bucket that DISTILDIRE_S3_BUCKET names; harmless where it is there."""
    settings = StoreSettings.read()
    make_bucket(settings, _root_keys())
    notes().print(f"The bucket {settings.s3_bucket} is there.")


@command.command()
def user() -> None:
    """Give DISTILDIRE_S3_ACCESS_KEY and its secret the rights to use that bucket, and no others; harmless to repeat.

    For MinIO, where the keys become a user. On another store make such keys as its documentation says.
    """
    settings = StoreSettings.read()
    make_user(settings, _root_keys())
    notes().print(f"The service's keys may use the bucket {settings.s3_bucket}, and nothing else.")


def _root_keys() -> RootKeys:
    #: The root user of the object store, for `distildire store` alone.
    user = os.environ.get("S3_ROOT_USER")
    #: The password of the object store's root user, for `distildire store` alone.
    password = os.environ.get("S3_ROOT_PASSWORD")
    if not user or not password:
        raise click.ClickException("Set S3_ROOT_USER and S3_ROOT_PASSWORD: the root keys of the object store.")
    return RootKeys(user, password)
