"""Reads what stands in the source alone: log events, environment variables, and the sentences in `#:` comments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("api", "deploy", "migrations", "shared", "worker")
#: A logger's methods, and the level that each writes at.
LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")} | {"exception": "error"}
_ENVIRON = "os.environ"
_PREFIX = "DISTILDIRE_"


class SourceError(Exception):
    """The source does not say what the documentation needs; the message names the places."""


@dataclass
class Event:
    """A kind of line in the log."""

    levels: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass
class Variable:
    """An environment variable that the source reads by its name."""

    default: str = ""
    sentences: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Module:
    """One file of the source."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """What the module's names stand for, by name."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
        return found

    def sentence(self, line: int) -> str:
        """Return the `#:` comment above a line, or above the statement that it is a part of; "" where there is none."""
        lines = self.text.splitlines()
        for start in (line, self._statement_at(line)):
            above = start - 1
            while above and lines[above - 1].lstrip().startswith("#:"):
                above -= 1
            if found := [text.strip().removeprefix("#:").strip() for text in lines[above : start - 1]]:
                return " ".join(found)
        return ""

    def text_of(self, node: ast.expr | None) -> tuple[str, ast.expr] | None:
        """Return the text that an expression stands for, and where that is written; None where nobody can tell."""
        match node:
            case ast.Constant(value=str(text)):
                return text, node
            case ast.Name(id=name) if name in self.constants:
                return self.text_of(self.constants[name])
            case ast.Call(func=ast.Name(id="Path"), args=[path]):
                return self.text_of(path)
            case ast.JoinedStr(values=[ast.FormattedValue(value=ast.Name(id="PREFIX")), ast.Constant(value=str(rest))]):
                return _PREFIX + rest, node
        return None

    def _statement_at(self, line: int) -> int:
        """The line at which the innermost statement begins that a line is a part of."""
        statements = (node for node in ast.walk(self.tree) if isinstance(node, ast.stmt))
        return max(node.lineno for node in statements if node.lineno <= line <= (node.end_lineno or 0))


def modules() -> Iterator[Module]:
    """Yield every file of the product."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield Module(path.relative_to(ROOT), path.read_text())


def events() -> dict[str, Event]:
    """Return every event of the product's log, by name.

    Raises:
        SourceError: one is not named by a literal, or has no sentence, or two.

    """
    found: dict[str, Event] = {}
    for module in modules():
        if "structlog" not in module.text:
            continue  # its records are sentences for whoever runs a command
        for call, method in _logging_calls(module.tree):
            place = f"{module.path}:{call.lineno}"
            name = module.text_of(call.args[0])
            if name is None:
                raise SourceError(f"{place}: name the event by a literal, so that it can be listed.")
            event = found.setdefault(name[0], Event())
            event.places.append(place)
            if LEVELS[method] not in event.levels:
                event.levels.append(LEVELS[method])
            if sentence := module.sentence(call.lineno):
                event.sentences.append(sentence)
    _demand_one_sentence(found)
    return dict(sorted(found.items()))


def variables() -> dict[str, Variable]:
    """Return every environment variable that the product reads by its name, by name."""
    found: dict[str, Variable] = {}
    for module in modules():
        for named, default, said in _readings(module):
            if (name := module.text_of(named)) is None:
                continue
            variable = found.setdefault(name[0], Variable())
            variable.places.append(f"{module.path}:{name[1].lineno}")
            if (text := module.text_of(default)) is not None:
                variable.default = text[0]
            if sentence := said or module.sentence(name[1].lineno):
                variable.sentences.append(sentence)
    return dict(sorted(found.items()))


def member_sentences(path: str, class_name: str) -> dict[str, str]:
    """Return the sentence of each member of an enumeration, by its value.

    Raises:
        SourceError: one has none.

    """
    module = Module(Path(path), (ROOT / path).read_text())
    (found,) = (node for node in module.tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    sentences = {
        node.value.value: module.sentence(node.lineno)
        for node in found.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    if missing := [value for value, sentence in sentences.items() if not sentence]:
        raise SourceError(f"{path}: write a `#:` comment above {', '.join(map(str, missing))} of {class_name}.")
    return {str(value): sentence for value, sentence in sentences.items()}


def _logging_calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=logger, attr=method), args=[_, *_]) if method in LEVELS:
                if re.fullmatch(r"_?log|structlog\.get_logger\(.*\)", ast.unparse(logger)):
                    yield node, method


def _readings(module: Module) -> Iterator[tuple[ast.expr, ast.expr | None, str]]:
    """The names of variables that a module reads, with the expressions of their defaults, and help texts."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Attribute(value=source, attr="get" | "setdefault"), args=[name, *defaults]):
                if ast.unparse(source) == _ENVIRON:
                    yield name, defaults[0] if defaults else None, ""
            case ast.Subscript(value=source, slice=name, ctx=ast.Load()) if ast.unparse(source) == _ENVIRON:
                yield name, None, ""
            case ast.Compare(left=name, comparators=[source]) if ast.unparse(source) == _ENVIRON:
                yield name, None, ""
            case ast.Call(keywords=keywords):
                given = {keyword.arg: keyword.value for keyword in keywords}
                if "envvar" in given:
                    said = module.text_of(given.get("help"))
                    yield given["envvar"], given.get("default"), said[0] if said else ""


def _demand_one_sentence(found: dict[str, Event]) -> None:
    wrong = [
        f"{event.places[0]}: one call that logs {name} needs a `#:` comment that says what it means, and only one."
        for name, event in found.items()
        if len(event.sentences) != 1
    ]
    if wrong:
        raise SourceError("\n".join(wrong))
