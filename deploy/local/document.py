"""`stack.json`: what a running stack tells of itself. Clients read it, so nothing but the standard library is here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.ledger import Ledger

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
        """Return the document of the stack in `data_dir`; None where none is up."""
        path = data_dir / STACK_FILE
        return cls(**json.loads(path.read_text())) if path.exists() else None


def running_stack(data_dir: Path) -> StackDocument | None:
    """Return the document of the stack that runs in `data_dir`, whole or in part; None where nothing of it runs."""
    alive = any(identity.alive for identity in Ledger(data_dir).read().values())
    return StackDocument.read(data_dir) if alive else None
