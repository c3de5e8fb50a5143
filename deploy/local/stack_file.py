"""`stack.json`: addresses and keys of a running stack. Clients read it, so this needs the standard library alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.process_registry import ProcessRegistry
from deploy.local.state_files import read_damageable, read_if_whole

STACK_FILE = "stack.json"


@dataclass(frozen=True)
class StackDocument:
    """`stack.json`: where everything is. It holds secrets and is readable by its owner alone."""

    api_url: str
    api_key: str
    database_url: str
    redis_url: str
    s3: dict[str, str]  # endpoint, access_key, secret_key, bucket
    pids: dict[str, int | None] = field(default_factory=dict)  # None: it has ended and was not started again

    @property
    def has_api(self) -> bool:
        """Whether the API has not ended."""
        return self.pids.get("api") is not None

    @classmethod
    def read(cls, data_dir: Path) -> StackDocument | None:
        """Return the document of the stack in `data_dir`; None where none is up, or the file is damaged."""
        return read_if_whole(data_dir / STACK_FILE, _document)


def running_stack(data_dir: Path) -> StackDocument | None:
    """Return the document of the stack that runs in `data_dir`, whole or in part; None where nothing of it runs.

    Raises:
        DamagedError: nobody can tell, or the document of a stack that runs is damaged.
    """
    if not any(identity.alive for identity in ProcessRegistry(data_dir).read_strictly().values()):
        return None
    return read_damageable(data_dir / STACK_FILE, _document)


def _document(content: Any) -> StackDocument:
    """The document, if all that is needed is there."""
    document = StackDocument(**content)
    texts = (document.api_url, document.api_key, document.database_url, document.redis_url, *document.s3.values())
    if not all(isinstance(text, str) for text in texts):
        raise ValueError
    if {"endpoint", "access_key", "secret_key", "bucket"} - document.s3.keys():
        raise ValueError
    document.pids.get("api")  # it is a mapping
    return document
