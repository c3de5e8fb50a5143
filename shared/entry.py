"""The start of every process of the service: it reads its settings and removes all other environment variables."""

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
    """Remove other programs' environment variables and return the settings; exit with status 2 if they are wrong.

    Call it before importing libraries that read the environment, because some read it on import.
    """
    ignored = confine()
    try:
        settings = kind.read()
    except SettingsError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(2)
    configure_logging(settings.log_level)
    if ignored:
        #: Environment variables of other programs are set (`names`), such as `CELERY_BROKER_URL`. They have no effect.
        _log.warning("environment_ignored", names=ignored)
    for name, known in unknown_settings().items():
        #: There is no setting with this `name`; `known` is the most similar. It has no effect: correct or remove it.
        _log.warning("setting_unknown", name=name, known=known)
    return settings
