"""Writing one section of a card's file; all else in the file stays as it is, a person's comments included."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from worker.atomic_files import write_whole
from worker.model.cards.registry import BUNDLED, MODELS_DIR_VARIABLE, InstalledCard, ModelError, parse_card


def require_own_folder(installed: InstalledCard) -> None:
    """Raise ModelError where there is no folder of the operator's own to write a card into."""
    if installed.folders == (BUNDLED,):
        raise ModelError(
            f"The card of {installed.card.name} belongs to the installed package. Name a folder for a copy of it with "
            f"--models-dir or {MODELS_DIR_VARIABLE}."
        )


def card_to_write(installed: InstalledCard) -> Path:
    """Return the card's file; of a bundled one a copy in the models folder, which goes before it.

    The report of the training goes along: by it `calibrate` knows images that the model was trained on.

    Raises:
        ModelError: where the copy would be is a card of another model.
        DiskFullError: there is no room for the copy.
    """
    first = installed.folders[0]
    if installed.path.is_relative_to(first):
        return installed.path
    copy = first / installed.path.name
    name = installed.card.name
    if copy.exists():
        raise ModelError(f"{copy} is the card of another model than {name}. Give it another name, then try again.")
    with suppress(FileNotFoundError):
        write_whole(report_place(copy, name), report_place(installed.path, name).read_bytes())
    write_whole(copy, installed.path.read_bytes())
    return copy


def report_place(card: Path, model: str) -> Path:
    """Return where the report of the training lies whose model has the card file at `card`."""
    return card.with_name(f"{model}.training.json")


def write_section(card: Path, title: str, lines: Sequence[str]) -> None:
    """Put a section at the end of a card's file, in place of the one of that title and its sub-sections.

    Args:
        card: the file.
        title: such as `self_test`, for the header `[self_test]`.
        lines: of TOML: a comment if wanted, the header, its fields, its sub-sections.

    Raises:
        ModelError: the card would not be a valid one, or the file cannot be written; it is as it was.
        DiskFullError: there is no room for it; it is as it was.
    """
    kept = _without(card.read_text(encoding="utf-8"), title)
    text = f"{kept.rstrip()}\n\n" + "\n".join(lines) + "\n"
    parse_card(text, card)
    try:
        write_whole(card, text.encode())
    except OSError as error:
        raise ModelError(
            f"{card} cannot be written: {error.strerror}. Give the right to write, then run the same command again."
        ) from error


def _without(text: str, title: str) -> str:
    """Return a card's text without a section, the comment right above its header included."""
    kept: list[str] = []
    comment: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            comment.append(line)
            continue
        if line.startswith("["):
            header = line.strip().partition("]")[0].lstrip("[")
            inside = header == title or header.startswith(f"{title}.")
        if not inside:
            kept += [*comment, line]
        comment = []
    return "".join([*kept, *comment])
