"""Reading model cards, and finding them and their weights in the models folders.

A card is a TOML file in `DISTILDIRE_MODELS_DIR` or in the package. An operator's card takes precedence over a bundled
card of the same name, so that an operator can change a card without changing the package.
"""

from __future__ import annotations

import logging
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from shared.errors import DistildireError
from worker.model.cards.schema import ModelCard, WeightsFile

BUNDLED = Path(__file__).parent
MODELS_DIR_VARIABLE = "DISTILDIRE_MODELS_DIR"
CONVERTED = ".safetensors"
"""The suffix that a converted file adds to the name that its card states."""

_log = logging.getLogger(__name__)


class ModelError(DistildireError):
    """The model cannot be used."""


class CardError(ModelError):
    """The model card is wrong."""


@dataclass(frozen=True)
class InstalledCard:
    """A card, the file that it was read from, and the folders that are searched for its weights, in that order."""

    card: ModelCard
    path: Path
    folders: tuple[Path, ...]

    def find(self, file: WeightsFile) -> Path | None:
        """Return the path of the converted weights, or else of those that the card names; None if there are none."""
        for folder in self.folders:
            for name in (file.weights + CONVERTED, file.weights):
                if (folder / name).is_file():
                    return folder / name
        return None

    def locate(self, file: WeightsFile) -> Path:
        """Return the weights' path, as `find` does.

        Raises:
            ModelError: the file is in none of the folders.
        """
        path = self.find(file)
        if path is not None:
            return path
        name = self.card.name
        places = " nor in ".join(str(folder) for folder in self.folders)
        raise ModelError(
            f"{name}: the weights {file.weights} are not in {places}. Set {MODELS_DIR_VARIABLE} to a folder of your "
            + (
                f"own and run `distildire models fetch {name}`, or get them from {' or '.join(file.urls)} and run "
                if file.urls
                else "own, obtain them from the model's author and run "
            )
            + f"`distildire models import {name} FILE`."
        )


def list_cards(models_dir: Path | None = None) -> list[InstalledCard]:
    """Return the usable cards, sorted by name. Log a warning for each card that cannot be read.

    `models_dir` is by default the folder that `DISTILDIRE_MODELS_DIR` names, if it is set.
    """
    cards, problems = _scan(models_dir)
    for problem in problems:
        _log.warning("%s", problem.message)
    return sorted(cards.values(), key=lambda installed: installed.card.name)


def find_card(name: str, models_dir: Path | None = None) -> InstalledCard:
    """Return the card of that name.

    Raises:
        CardError: there is none, but there is a wrong card that may be the one.
        ModelError: there is none; the message names the installed models and the cards that cannot be read.
    """
    cards, problems = _scan(models_dir)
    if name in cards:
        return cards[name]
    known = ", ".join(sorted(cards)) or "none"
    unreadable = "".join(f"\nAlso: {problem.message}" for problem in problems)
    wrong = any(isinstance(problem, CardError) for problem in problems)
    raise (CardError if wrong else ModelError)(
        f"There is no model named {name!r}. Installed: {known}. Put its card (a .toml file) into the folder that "
        f"{MODELS_DIR_VARIABLE} names, or choose an installed one.{unreadable}"
    )


def read_card(path: Path) -> ModelCard:
    """Read one card.

    Raises:
        CardError: as `parse_card`, or the file is not text.
        ModelError: the file cannot be read.
    """
    try:
        return parse_card(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise CardError(f"The model card {path} cannot be read: {error}. Correct or remove it.") from error
    except OSError as error:
        raise ModelError(f"The model card {path} cannot be read: {error}. Correct or remove it.") from error


def parse_card(text: str, path: Path) -> ModelCard:
    """Return the card that a file's text describes. Error messages name the file's path.

    Raises:
        CardError: the text is not TOML, or fields are missing, wrong or unknown; the message names all of them.
    """
    try:
        return ModelCard.model_validate(tomllib.loads(text))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())
        raise CardError(f"The model card {path} is wrong: {faults}. Correct these fields.") from error
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"The model card {path} cannot be read: {error}. Correct or remove it.") from error


def _scan(models_dir: Path | None) -> tuple[dict[str, InstalledCard], list[ModelError]]:
    """Read all cards. Return the first of each name, and why others cannot be used."""
    cards: dict[str, InstalledCard] = {}
    problems: list[ModelError] = []
    folders = _folders(models_dir)
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            try:
                card = read_card(path)
            except ModelError as error:
                problems.append(error)
                continue
            previous = cards.setdefault(card.name, InstalledCard(card, path, folders))
            if previous.path.parent == folder and previous.path != path:
                problems.append(
                    CardError(f"The model card {path} repeats the name {card.name} of {previous.path}: rename one.")
                )
    return cards, problems


def _folders(models_dir: Path | None) -> tuple[Path, ...]:
    named = models_dir or os.environ.get(MODELS_DIR_VARIABLE)
    return (Path(named), BUNDLED) if named else (BUNDLED,)
