"""Writing one section of a card's file. Everything else in the file stays as it is, a person's comments included."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument

from worker.atomic_files import write_whole
from worker.model.cards.registry import BUNDLED, MODELS_DIR_VARIABLE, InstalledCard, ModelError, parse_card


def require_own_folder(installed: InstalledCard) -> None:
    """Raise ModelError if the operator has set no models folder into which a card can be written."""
    if installed.folders == (BUNDLED,):
        raise ModelError(
            f"The card of {installed.card.name} is part of the installed package. Set a folder for a copy of it with "
            f"--models-dir or {MODELS_DIR_VARIABLE}."
        )


def card_to_write(installed: InstalledCard) -> Path:
    """Return the card's file. Copy a bundled card to the models folder first, where it takes precedence.

    The training report is copied too: `calibrate` uses it to find images that the model was trained on.

    Raises:
        ModelError: another model's card has the copy's path.
        DiskFullError: there is not enough disk space for the copy.
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
    """Return the path of the training report of the model whose card file is `card`."""
    return card.with_name(f"{model}.training.json")


def write_section(card: Path, section: Sequence[str], fields: Mapping[str, object], comment: str) -> None:
    """Write one section of a card's file. Everything else in the file keeps its text, its order and its comments.

    Args:
        card: the file.
        section: the keys that lead to it, such as `("evaluations", "held-out")` for `[evaluations.held-out]`.
        fields: all of the section's fields; other fields of the section are removed. A mapping is a sub-section.
        comment: written into the section if it is new.

    Raises:
        ModelError: the file would not be a valid card, or it cannot be read or written. It is then unchanged.
        DiskFullError: there is not enough disk space. The file is then unchanged.
    """
    text = card.read_text(encoding="utf-8")
    parse_card(text, card)
    document = tomlkit.parse(text)
    edited = tomlkit.dumps(_with_section(document, section, fields, comment))
    parse_card(edited, card)
    try:
        write_whole(card, edited.encode())
    except OSError as error:
        raise ModelError(
            f"{card} cannot be written: {error.strerror}. Allow writing to it, then run the same command again."
        ) from error


def _with_section(
    document: TOMLDocument, section: Sequence[str], fields: Mapping[str, object], comment: str
) -> TOMLDocument:
    parent: MutableMapping[str, Any] = document
    *parents, name = section
    for key in parents:
        parent = parent.setdefault(key, tomlkit.table(is_super_table=True))
    if name not in parent:
        new = tomlkit.table()
        new.add(tomlkit.comment(comment))
        parent[name] = new
    _update(parent[name], fields)
    return document


def _update(table: MutableMapping[str, Any], fields: Mapping[str, object]) -> None:
    """Set a table to these fields. Existing sub-tables are updated, not replaced, to keep their comments.

    A sub-table that is not among the fields is emptied, not removed: it holds the comment above the next header.
    """
    for key in table.keys() - fields.keys():
        if isinstance(table[key], MutableMapping):
            _update(table[key], {})
        else:
            del table[key]
    for key, value in fields.items():
        if not isinstance(value, Mapping):
            table[key] = value
        elif key in table:
            _update(table[key], value)
        elif value:
            table[key] = value
