"""What the documentation lists exists, and what exists is listed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
import pytest

from deploy.cli import main
from docs.reference import pages, source, tables
from shared.domain import ModelIdentity
from shared.egress.url_policy import EgressCode
from shared.environment import PREFIX
from shared.errors import ErrorCode
from shared.settings import Settings
from tests.chaos.measures import MEASURES
from worker.evaluation.estimates import Estimates, Resampling, estimates_of
from worker.evaluation.report.schema import Controls, Data, Report
from worker.model.verdicts.policy import Evidence, Policy
from worker.webhooks.sender import OwnFault

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
#: What lists names that were, beside those that are.
HISTORY = ROOT / "CHANGELOG.md"
PRESENT = [page for page in PAGES if page != HISTORY]
PRODUCT = sorted(path for folder in source.FOLDERS for path in (ROOT / folder).rglob("*.py"))
DEPLOYMENT = [ROOT / "docker-compose.yml", *sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def rows(page: str, column: int = 0) -> set[str]:
    """What a column of the page's tables names in code."""
    lines = re.findall(r"^\| (.*) \|$", (ROOT / page).read_text(), re.MULTILINE)
    cells = (line.split(" | ")[column] for line in lines if line.count(" | ") >= column)
    return {found[1] for cell in cells if (found := re.fullmatch(r"`([^`]+)`", cell.strip()))}


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


# Tables that follow from the code


@pytest.mark.parametrize("page", PRESENT, ids=name)
def test_tables_are_as_the_code_is(page: Path) -> None:
    text = page.read_text()
    assert text == pages.rewritten(text), f"{name(page)} is stale: run `make docs`"


def test_every_setting_and_variable_is_listed() -> None:
    """Found without the generator: every name with our prefix, whoever reads it, and every other that is read."""
    prefixed = re.compile(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b")
    used = {found for path in [*PRODUCT, *DEPLOYMENT] for found in prefixed.findall(path.read_text())}
    used |= {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    for path in PRODUCT:
        for access in re.findall(r"environ(?:\.\w+\(|\[)\"([A-Z_]+)\"", path.read_text()):
            used.add(access)
    used -= {f"{PREFIX}S3"}  # "`…_S3_*`" in a comment
    assert not used - rows("docs/settings.md")


def test_every_variable_of_the_compose_file_is_explained() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    written = set(re.findall(r"^(\w+)=", (ROOT / "deploy/docker/make-env.sh").read_text(), re.MULTILINE))
    explained = set(re.findall(r"`(\w+)`", (ROOT / "docs/settings.md").read_text()))
    assert not (asked | {word for word in written if word.isupper()}) - explained


def test_every_event_of_the_log_is_listed() -> None:
    event = re.compile(r"(?:\b_?log|get_logger\(\w*\))\.(?:debug|info|warning|error|exception|critical)\(\s*\"(\w+)\"")
    logged = {found for path in PRODUCT if "structlog" in path.read_text() for found in event.findall(path.read_text())}
    assert len(logged) > 50
    assert logged == rows("docs/log.md")


def test_every_refusal_is_listed_with_its_status() -> None:
    made = {
        (str(call.args[0].value), str(call.args[1].value))
        for path in (ROOT / "api").rglob("*.py")
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "Problem"
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[1], ast.Constant)
    }
    listed = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert len(made) > 30
    assert made == listed


def test_every_reason_of_a_failure_is_listed() -> None:
    assert {str(code) for code in ErrorCode} <= rows("docs/api.md")
    assert {str(code) for code in [*EgressCode, *OwnFault]} <= rows("docs/webhooks.md")


def commands(group: click.Group, path: str) -> Iterator[str]:
    """Every command, as it is typed."""
    for child in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), child)
        assert command is not None
        yield f"{path} {child}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {child}")


def test_every_command_is_listed() -> None:
    headings = re.findall(
        r"^#+ `(distildire[a-z ]+?)(?: [^a-z`].*)?`$", (ROOT / "docs/command.md").read_text(), re.MULTILINE
    )
    assert sorted(headings) == sorted(commands(main, "distildire"))


def test_every_field_of_reports_and_policies_is_documented() -> None:
    words = set(re.findall(r"[\w.]+", (ROOT / "docs/evaluation.md").read_text()))
    found = estimates_of(
        np.array([0.2, 0.8]), np.array([False, True]), np.array(["a", "b"]), 0.5, Resampling(resamples=2)
    )
    names = {field.name for part in (Report, Estimates, ModelIdentity, Data) for field in fields(part)}
    names |= {f"controls.{field.name}" for field in fields(Controls)} | set(found.estimates)
    names |= {name for part in (Policy, Evidence) for name in part.model_fields}
    assert not {name for name in names if name not in words and f"evidence.{name}" not in words}


# What the sentences name


def anchors(page: Path) -> set[str]:
    """The places of a page that can be linked to, as GitHub names them."""
    found: set[str] = set()
    for heading in re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    ):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert not broken


@pytest.mark.parametrize("page", PRESENT, ids=name)
def test_files_that_are_named_are_there(page: Path) -> None:
    """Paths of this repository, with or without the ending `.py`; one may name several members of a folder."""
    named = re.findall(r"(?<![\w./-])((?:api|deploy|docs|migrations|shared|tests|worker)/[\w./-]*\w)", page.read_text())
    missing = {path for path in named if not any((ROOT / f"{path}{ending}").exists() for ending in ("", ".py"))}
    assert not missing


def mentions(pattern: str) -> list[tuple[Path, str]]:
    return [(page, found) for page in PRESENT for found in re.findall(pattern, page.read_text())]


def test_make_targets_that_are_named_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = {
        (name(page), target)
        for page, target in mentions(r"(?m)(?:`|^(?:\$ )?|&& )make ([a-z-]+)")
        if target not in targets
    }
    assert not wrong


def test_measures_and_variables_of_make_that_are_named_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert {what for _, what in mentions(r"WHAT=([a-z-]+)")} <= set(MEASURES)
    given = mentions(r"make [a-z-]+ ([A-Z]+=\S+(?: [A-Z]+=\S+)*)")
    variables = {word.partition("=")[0] for _, words in given for word in words.split()}
    assert {"SEED", "WHAT"} <= variables
    assert not {variable for variable in variables if f"$({variable})" not in makefile}


def test_commands_and_options_that_are_named_are_there() -> None:
    wrong = []
    for page, line in mentions(r"(?<![\w/.:-])(?:\.venv/bin/)?distildire ((?:[a-z]+ ?)+[^`\n#|]*)"):
        command: click.Command = main
        words = line.split()
        while words and isinstance(command, click.Group) and words[0] in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None
            command = found
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
        wrong += [
            f"{name(page)}: {line}"
            for word in words
            if word.startswith("--") and word.partition("=")[0].rstrip(".,;:)") not in known
        ]
    assert not wrong


def routes(path: Path) -> Iterator[str]:
    """The addresses that a file of the API serves, each part that varies as an X."""
    text = path.read_text()
    prefixes = dict(re.findall(r"^(\w+) = APIBlueprint\(.*url_prefix=\"(.*?)\"", text, re.MULTILINE))
    for blueprint, rule in re.findall(r"^@(\w+)\.(?:get|post|delete)\(f?\"(.*?)\"", text, re.MULTILINE):
        yield prefixes.get(blueprint, "") + re.sub("<[^>]*>", "X", rule)


def test_routes_that_are_named_are_there() -> None:
    known = {route for path in (ROOT / "api").rglob("*.py") for route in routes(path)}
    assert "/v1/jobs/X" in known
    wrong = []
    for page, route in mentions(r"(?<![\w:.])(?:\$API|\b)?(/v1/[\w/{}$-]*[\w}])"):
        shape = re.sub(r"\{[^}]*\}|\$[A-Z]+|0b7e", "X", route)
        if not any(re.fullmatch(one.replace("X", "[^/]+"), shape) for one in known):
            wrong.append(f"{name(page)}: {route}")
    assert not wrong


def test_metrics_that_are_named_are_there() -> None:
    made = {
        found
        for path in (ROOT / "api").rglob("*.py")
        for found in re.findall(r"\"(distildire_\w+)\"", path.read_text())
    }
    named = {(name(page), metric) for page, metric in mentions(r"`(distildire_\w+?)(?:_total)?(?:\{[^}]*\})?`")}
    roles = {"distildire_api", "distildire_worker"}
    assert not {
        (page, metric) for page, metric in named if metric not in made | roles and metric.startswith("distildire_")
    }


# The generator


@pytest.fixture
def product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A product of one file."""
    monkeypatch.setattr(source, "ROOT", tmp_path)
    (tmp_path / "api").mkdir()
    return tmp_path / "api/module.py"


LOGGER = "import structlog\n_log = structlog.get_logger()\n"


def test_an_event_has_the_sentence_above_its_call(product: Path) -> None:
    product.write_text(f'{LOGGER}#: Somebody came\n#: in.\n_log.info(\n    "entered"\n)\n_log.error("entered")\n')
    (found,) = source.events().values()
    assert (found.levels, found.sentences) == (["info", "error"], ["Somebody came in."])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('_log.info("entered")\n', "module.py:3: one call that logs entered needs"),
        ('#: One.\n_log.info("entered")\n#: Two.\n_log.info("entered")\n', "and only one"),
        ("def tell(event):\n    _log.info(event)\n", "module.py:4: name the event by a literal"),
    ],
    ids=["no sentence", "two sentences", "no literal"],
)
def test_an_event_that_cannot_be_listed_is_named(product: Path, lines: str, said: str) -> None:
    product.write_text(LOGGER + lines)
    with pytest.raises(source.SourceError, match=re.escape(said)):
        source.events()


def test_variables_are_found_however_they_are_read(product: Path) -> None:
    product.write_text(
        "import os\nimport click\n#: The name.\n_NAME = 'NAMED'\nos.environ[_NAME]\n"
        "#: The folder.\nfolder = os.environ.get('FOLDER', 'here')\n"
        "given = {\n    #: The key.\n    'key': os.environ['KEY'],\n}\n"
        "option = click.option('--size', envvar='SIZE', default='3', help='The size.')\n"
        "os.environ['SET_ONLY'] = '1'\n"
    )
    found = {key: (variable.default, variable.sentences) for key, variable in source.variables().items()}
    assert found == {
        "NAMED": ("", ["The name."]),
        "FOLDER": ("here", ["The folder."]),
        "KEY": ("", ["The key."]),
        "SIZE": ("3", ["The size."]),
    }


def test_what_stands_between_the_marks_of_a_table_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables.TABLES, "few", lambda first, last: f"{first} to {last}")
    text = "a\n<!-- table: few b c -->\n\nold\n\n<!-- end of table -->\nd\n"
    assert pages.rewritten(text) == "a\n<!-- table: few b c -->\n\nb to c\n\n<!-- end of table -->\nd\n"
