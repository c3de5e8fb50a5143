"""What of its environment a process of the product may see: its own settings, and the variables that are named here.

Libraries read variables of their own at any time. `CELERY_BROKER_URL` takes precedence over the broker that Celery is
told, libpq fills each gap of a database's URL from `PG*`, gunicorn takes options from `GUNICORN_CMD_ARGS`. They belong
to whatever else runs on the machine, and are hidden here from everything that would act on them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

PREFIX = "DISTILDIRE_"

#: Where programs are, who runs them, language, time, temporary files.
_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH"),
        *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER"),
    }
)
#: The authorities by which the webhook worker verifies receivers.
_AUTHORITIES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})
#: Language, and how torch, its numeric libraries and the device work.
_BEGINNINGS = (
    "LC_",
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_", "TRITON_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "OPENBLAS_", "MALLOC_"),
)
#: What libraries would act on although they are told otherwise: libpq, Celery and kombu, gunicorn, and proxies.
_ACTED_ON = ("PG", "CELERY_", "KOMBU_", "GUNICORN_")
_ACTED_ON_NAMES = frozenset(
    {
        *("WEB_CONCURRENCY", "SCRIPT_NAME", "FORWARDED_ALLOW_IPS", "SENDFILE", "PORT", "DJANGO_SETTINGS_MODULE"),
        *("BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "APP"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    }
)
#: What the command alone reads: whose key it is, and of which API.
OF_THE_COMMAND = frozenset(f"{PREFIX}{name}" for name in ("API_KEY", "API_URL", "DATA_DIR"))
#: Settings that are paths: a process may have another working directory than whoever set them.
_PATHS = tuple(f"{PREFIX}{name}" for name in ("MODELS_DIR", "SECRETS_DIR", "READY_FILE"))


def plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the named variables alone: for programs of others, which have no use for our settings."""
    return {name: value for name, value in environment.items() if _is_named(name)}


def with_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the named variables and our settings, with absolute paths: for a process of the product."""
    kept = {name: value for name, value in environment.items() if _is_named(name) or _is_setting(name)}
    return kept | {name: str(Path(kept[name]).absolute()) for name in _PATHS if kept.get(name)}


def confine() -> list[str]:
    """Take everything else from this process. Return the names of what a library would have acted on.

    Call it before the libraries are imported: some look when they are.
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
    """Take away what overrules where our servers and routes are, from a process that keeps its user's environment.

    The command is one, and so is what is started by Celery's or gunicorn's own command.
    """
    for name in [name for name in environment if name.startswith(("PG", "CELERY_")) or name == "SCRIPT_NAME"]:
        del environment[name]


def _is_named(name: str) -> bool:
    return name in _NAMES | _AUTHORITIES or name.startswith(_BEGINNINGS)


def _is_setting(name: str) -> bool:
    return name.startswith(PREFIX) and name not in OF_THE_COMMAND


def _is_acted_on(name: str) -> bool:
    return name.startswith(_ACTED_ON) or name.upper() in _ACTED_ON_NAMES | _AUTHORITIES
