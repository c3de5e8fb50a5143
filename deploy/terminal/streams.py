"""Output that never fails over a character: a terminal may know only ASCII, and a file name need not be text."""

from __future__ import annotations

import codecs
import io
import json
import sys

import click

_HANDLER = "distildire"
#: What our own words use beyond ASCII, as it is written where only ASCII can be.
_PLAIN = {
    "✓": "ok",
    "✗": "FAULT",
    "–": "-",
    "−": "-",
    "…": "...",
    "→": "->",
    "×": "x",
    "·": "-",
    "±": "+/-",
    "‖": "|",
    "≥": ">=",
    "≤": "<=",
    "λ": "lambda",
    "━": "=",
}
_SPINNER = range(0x2800, 0x2900)


def make_safe() -> None:
    """Have standard output and error replace what they cannot write, from now on."""
    codecs.register_error(_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def print_json(document: object) -> None:
    """Print one JSON document on a line: as text, or escaped where the output cannot write its characters."""
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document)
    click.echo(text)


def readable(name: object) -> str:
    """Return a name on one line: what is no text, ends the line or steers the terminal is escaped."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(name))


def one_line(error: BaseException) -> str:
    """Return what an exception is, on one line."""
    said = readable(" ".join(str(error).split()))
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if ord(character) in _SPINNER:
        return "*"
    return _PLAIN.get(character) or _escaped(character)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
