"""Nothing of the product turns bytes into code: no unpickling, no eval, weights only as weights."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    file for folder in ("api", "deploy", "migrations", "shared", "worker") for file in (ROOT / folder).rglob("*.py")
)
#: Modules that run what they read, or exist to.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle", "code"}
CALLS = {"eval", "exec", "compile", "__import__"}
#: Names in them that do no harm.
ERRORS = {"pickle.UnpicklingError"}
#: Functions that are harmless with an argument of this value, by their full name. numpy's has it by default.
ARGUMENTS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
DEFAULTS = {"np.load"}
#: Never, whatever the arguments.
NEVER = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "importlib.reload"}


def dangers(source: str) -> Iterator[str]:
    """Name what could run code that was read, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        for name in _names(node):
            yield f"{node.lineno}: {name}"  # type: ignore[attr-defined]


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom) and node.module:
        full = {f"{node.module}.{alias.name}" for alias in node.names}
        yield from (full - ERRORS if node.module.split(".")[0] in MODULES else full & (ARGUMENTS.keys() | NEVER))
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called in CALLS | NEVER or not _is_harmless(node, called):
            yield called
        if any(word.arg == "shell" and not _is(word.value, False) for word in node.keywords):
            yield f"{called}(shell=…)"


def _is_harmless(node: ast.Call, called: str) -> bool:
    if called not in ARGUMENTS:
        return True
    name, wanted = ARGUMENTS[called]
    given = [word.value for word in node.keywords if word.arg == name]
    return all(_is(value, wanted) for value in given) and bool(given or called in DEFAULTS)


def _is(node: ast.expr, wanted: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is wanted


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 80


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_turns_bytes_into_code(file: Path) -> None:
    assert list(dangers(file.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads as harmless",
        "def f():\n    import marshal as m",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=mode)",
        "from torch import load",
        "np.load(file, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "eval('1')",
        "subprocess.run(words, shell=True)",
    ],
)
def test_what_is_looked_for_is_found(source: str) -> None:
    assert list(dangers(source))
