"""The model: ADM's first-step noise and the DistilDIRE student. Importing this package does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.model.cards.registry import ModelError, find_card, list_cards
    from worker.model.detector import Detector
    from worker.model.loading import load_model
    from worker.model.verdicts.verdict import DecisionRule, Verdict, decide
    from worker.model.verification import verify

__all__ = [
    "DecisionRule",
    "Detector",
    "ModelError",
    "Verdict",
    "decide",
    "find_card",
    "list_cards",
    "load_model",
    "verify",
]

# A public name must differ from every module of this package: importing that module would replace the name.
_HOMES = {
    "DecisionRule": "verdicts.verdict",
    "Detector": "detector",
    "Verdict": "verdicts.verdict",
    "decide": "verdicts.verdict",
    "load_model": "loading",
    "verify": "verification",
}


def __getattr__(name: str) -> object:
    """Import a public name's module when the name is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'cards.registry')}"), name)
