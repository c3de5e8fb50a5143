"""The environment variables that the product's processes may see: its own settings and the variables named here.

Libraries read variables of their own at any time. Celery prefers `CELERY_BROKER_URL` to the broker in its
configuration, libpq fills in the parts that a database's URL omits from `PG*`, and gunicorn takes options from
`GUNICORN_CMD_ARGS`. Such variables are meant for other programs on the machine, so this module hides them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

PREFIX = "DISTILDIRE_"

#: Paths of programs, the user, language, time zone, temporary files.
_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH"),
        *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER"),
    }
)
#: The certificate authorities with which the webhook worker verifies receivers.
_AUTHORITIES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})
#: Prefixes: language, and options of torch, its numeric libraries and the device.
_BEGINNINGS = (
    "LC_",
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_", "TRITON_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "OPENBLAS_", "MALLOC_"),
)
#: Variables that override what we configure in libraries: libpq, Celery and kombu, gunicorn, and proxies.
_ACTED_ON = ("PG", "CELERY_", "KOMBU_", "GUNICORN_")
_ACTED_ON_NAMES = frozenset(
    {
        *("WEB_CONCURRENCY", "SCRIPT_NAME", "FORWARDED_ALLOW_IPS", "SENDFILE", "PORT", "DJANGO_SETTINGS_MODULE"),
        *("BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "APP"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    }
)
#: Variables that only the command reads: the API, its key, and the folder of a local stack.
OF_THE_COMMAND = frozenset(f"{PREFIX}{name}" for name in ("API_KEY", "API_URL", "DATA_DIR"))
#: Settings that are paths: a process may have another working directory than the shell in which they were set.
_PATHS = tuple(f"{PREFIX}{name}" for name in ("MODELS_DIR", "SECRETS_DIR", "READY_FILE"))


def plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Return only the variables named here: for other programs, which have no use for our settings."""
    return {name: value for name, value in environment.items() if _is_named(name)}


def with_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables named here and our settings, with absolute paths: for a process of the product."""
    kept = {name: value for name, value in environment.items() if _is_named(name) or _is_setting(name)}
    return kept | {name: str(Path(kept[name]).absolute()) for name in _PATHS if kept.get(name)}


def confine() -> list[str]:
    """Remove all other variables from this process; return the names of those that a library would have used.

    Call it before importing the libraries, because some read the environment on import.
    """
    kept = with_settings(os.environ)
    for name in _AUTHORITIES & kept.keys():
        if not os.access(kept[name], os.R_OK):
            del kept[name]
    ignored = sorted(name for name in os.environ.keys() - kept.keys() if _is_acted_on(name))
    for name in os.environ.keys() - kept.keys():
        del os.environ[name]
    return ignored


def hide_from_libraries(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables that override the addresses of our servers and routes; keep the user's other variables.

    This is for the command, and for processes that Celery's or gunicorn's own command starts.
    """
    for name in [name for name in environment if name.startswith(("PG", "CELERY_")) or name == "SCRIPT_NAME"]:
        del environment[name]


def _is_named(name: str) -> bool:
    return name in _NAMES | _AUTHORITIES or name.startswith(_BEGINNINGS)


def _is_setting(name: str) -> bool:
    return name.startswith(PREFIX) and name not in OF_THE_COMMAND


def _is_acted_on(name: str) -> bool:
    return name.startswith(_ACTED_ON) or name.upper() in _ACTED_ON_NAMES | _AUTHORITIES
