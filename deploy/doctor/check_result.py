"""What `distildire doctor` finds, one thing at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CheckResult:
    """What one check found; a finding with a remedy is a fault unless it is optional."""

    subject: str
    found: str
    remedy: str = ""
    optional: bool = False

    @property
    def faulty(self) -> bool:
        """Whether something that is needed is wrong."""
        return bool(self.remedy) and not self.optional

    @property
    def state(self) -> str:
        """`ok`, `note` for what one may want to change, `fault` for what is needed and wrong."""
        return "fault" if self.faulty else "note" if self.remedy else "ok"

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"state": self.state, **{name: value for name, value in asdict(self).items() if name != "optional"}}
