"""How every process of the service begins: it keeps only its own settings, and logs which variables it ignores."""

from __future__ import annotations

import sys
from typing import TypeVar

import structlog

from shared.environment import confine
from shared.logs import configure_logging
from shared.settings import CommonSettings, SettingsError, unknown_settings

_Kind = TypeVar("_Kind", bound=CommonSettings)

_log = structlog.get_logger(__name__)


def begin(kind: type[_Kind]) -> _Kind:
    """Take the environment of other programs away, and return the settings; end with status 2 where they are wrong.

    Call it before the libraries are imported that read the environment: some look when they are.
    """
    ignored = confine()
    try:
        settings = kind.read()
    except SettingsError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(2)
    configure_logging(settings.log_level)
    if ignored:
        #: Variables of other programs are set, `names`, such as `CELERY_BROKER_URL` or `PGHOST`. They change nothing.
        _log.warning("environment_ignored", names=ignored)
    for name, known in unknown_settings().items():
        #: There is no setting of this `name`; the nearest is `known`. It changes nothing: correct it or leave it out.
        _log.warning("setting_unknown", name=name, known=known)
    return settings
