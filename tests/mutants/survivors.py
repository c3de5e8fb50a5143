"""What mutmut says of the faults that no test noticed: which of them matter, and which are explained."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LITERAL = re.compile(r"\"[^\"]*\"|'[^']*'")

EXPLAINED = Path(__file__).with_name("explained.toml")


@dataclass(frozen=True)
class Change:
    """A fault: lines of a file, and what was planted in their place."""

    file: str
    was: str
    became: str

    @property
    def of_words_alone(self) -> bool:
        """Whether only a sentence reads otherwise: mutmut puts XX around it, or writes it in other letters.

        What has no space in it is no sentence but a name, which others may look for: a field, a header, a state.
        """
        if _bare(self.was) != _bare(self.became):
            return False
        literals = zip(_LITERAL.findall(self.was), _LITERAL.findall(self.became), strict=False)
        return all(" " in was for was, became in literals if was != became)


@dataclass(frozen=True)
class Explained:
    """A fault that no test can notice, or that none is to notice."""

    change: Change
    why: str


def change_of(diff: str) -> Change:
    """Read the fault out of a unified diff of one function."""
    lines = diff.splitlines()
    file = next(line.removeprefix("+++ ").partition("\t")[0] for line in lines if line.startswith("+++ "))
    was, became = (
        "\n".join(line[1:].strip() for line in lines if line.startswith(sign) and not line.startswith(sign * 3))
        for sign in "-+"
    )
    return Change(file, was, became)


def explained() -> Sequence[Explained]:
    """Return the faults that are explained."""
    entries = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["survivor"]
    return [Explained(Change(each["file"], each["was"], each["became"]), each["why"]) for each in entries]


def _bare(text: str) -> str:
    return re.sub(r"(?<=[\"'])XX|XX(?=[\"'])", "", text).casefold()
