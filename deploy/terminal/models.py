"""The output of `distildire models`: as documents for programs, and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from shared.percentages import decimal
from worker.metrics.rounding import headline, spread
from worker.model.cards.registry import BUNDLED, InstalledCard
from worker.model.cards.schema import CardEvaluation, WeightsFile
from worker.model.verdicts.policy import Policy
from worker.model.verdicts.policy_files import load_policies
from worker.model.weights.digests import weights_sha256

if TYPE_CHECKING:  # imports torch
    from worker.model.verification import Verification, VerifiedFile

_NON_COMMERCIAL = "CC-BY-NC"


def card_files(installed: InstalledCard) -> dict[str, WeightsFile]:
    """Return the card's two files by the names of their sections."""
    return {"adm": installed.card.adm, "student": installed.card.student}


def summary(installed: InstalledCard) -> dict[str, Any]:
    """Return a line of `models list` as a document."""
    return {
        "name": installed.card.name,
        "license": installed.card.license,
        "demonstration": installed.card.demonstration,
        "present": all(installed.find(file) for file in card_files(installed).values()),
        "card": str(installed.path),
        "bundled": installed.path.is_relative_to(BUNDLED),
    }


def description(installed: InstalledCard) -> dict[str, Any]:
    """Return the card's contents, the state of its files, and its policies."""
    files = {part: _file_description(installed, file) for part, file in card_files(installed).items()}
    policies, problems = _policies(installed)
    usable = {"policies": {name: policy.model_dump(mode="json") for name, policy in policies.items()}}
    contents = installed.card.model_dump(mode="json")
    return summary(installed) | {"files": files} | usable | {"policy_problems": list(problems), "contents": contents}


def verification_document(verification: Verification) -> dict[str, Any]:
    """Return a verification's result as a document."""
    files = [asdict(file) | {"path": str(file.path) if file.path else None} for file in verification.files]
    return asdict(verification) | {"files": files, "problems": list(verification.problems)}


def list_row(summary: dict[str, Any]) -> dict[str, str]:
    """Return a line of `models list` for people."""
    return {
        "model": f"{summary['name']} (demonstration)" if summary["demonstration"] else summary["name"],
        "weights": "present" if summary["present"] else "missing",
        "license": summary["license"],
        "card": "bundled" if summary["bundled"] else summary["card"],
    }


def describe_lines(installed: InstalledCard) -> Iterator[str]:
    """Yield the lines of `models show`, as markup."""
    card = installed.card
    yield f"[bold]{card.name}[/]{' [dim](demonstration)[/]' if card.demonstration else ''}"
    if card.notice:
        yield f"  [yellow]{escape(card.notice)}[/]"
    yield f"  licence    {license_words(card.license)}"
    yield f"  card       {escape(str(installed.path))}"
    yield f"  threshold  {card.threshold}"
    yield f"  self-test  {'in the card' if card.self_test else 'none'}"
    for part, file in card_files(installed).items():
        yield f"[bold]{part}[/]"
        for label, value in _file_lines(installed, file):
            yield f"  {label:<9}  {value}"
    policies, problems = _policies(installed)
    for name, policy in policies.items():
        yield f"[bold]policy {name}[/] threshold {decimal(policy.threshold, 4)}, {policy.precision}"
    for problem in problems:
        yield f"[red]✗[/] {escape(problem)}"
    for title, text in card.provenance.items():
        yield f"[dim]{escape(title.replace('_', ' '))}: {escape(' '.join(str(text).split()))}[/]"
    for name, evaluation in card.evaluations.items():
        yield from _evaluation_lines(name, evaluation)


def license_words(name: str) -> str:
    """Return a licence as markup, with a warning if it forbids commercial use."""
    if name.upper().startswith(_NON_COMMERCIAL):
        return f"[bold yellow]{escape(name)}: no commercial use[/] (https://creativecommons.org/licenses/by-nc/4.0/)"
    return escape(name)


def verification_lines(verification: Verification) -> Iterator[str]:
    """Yield the lines of `models verify`, as markup."""
    for file in verification.files:
        if file.problem:
            yield f"[red]✗[/] {file.part}: {escape(file.problem)}"
        else:
            yield from _sound_file_lines(file)
    yield {
        "passed": f"[green]✓[/] self-test: passed in {verification.precision} on {verification.device}",
        "failed": f"[red]✗[/] {escape(verification.problem)}",
        "absent": "[yellow]–[/] self-test: the card has none; `--record` writes one, once you trust these weights",
        "not run": "[yellow]–[/] self-test: not run",
    }[verification.self_test]
    if verification.policies:
        yield f"[green]✓[/] policies: {', '.join(verification.policies)}"
    for problem in verification.policy_problems:
        yield f"[red]✗[/] {escape(problem)}"
    if verification.weights_sha256:
        yield f"weights_sha256 {verification.weights_sha256}"


def _policies(installed: InstalledCard) -> tuple[dict[str, Policy], tuple[str, ...]]:
    """Return the model's policies, checked only as far as possible without reading its weights or using a device."""
    adm, student = installed.card.adm.sha256, installed.card.student.sha256
    return load_policies(installed, weights_sha256(adm, student) if adm and student else None, installed.card.precision)


def _evaluation_lines(name: str, evaluation: CardEvaluation) -> Iterator[str]:
    """Yield the evaluation on one set of images: metrics, then controls, each with its interval."""
    how = f"policy {evaluation.policy}" if evaluation.policy else f"threshold {evaluation.threshold}"
    yield (
        f"[bold]measured: {name}[/] [dim]{evaluation.reals} photographs, {evaluation.fakes} fakes, "
        f"{evaluation.groups} groups, {how}[/]"
    )
    for title, (value, low, high) in evaluation.estimates.items():
        yield f"  {title.replace('_', ' ')}: {headline(value, low, high)} [dim]{spread(value, low, high)}[/]"
    for title, (value, low, high) in evaluation.average_precision_of.items():
        measured = f"{headline(value, low, high)} [dim]{spread(value, low, high)}[/]"
        yield f"  average precision, {escape(title)}: {measured}"


def _file_description(installed: InstalledCard, file: WeightsFile) -> dict[str, Any]:
    path = installed.find(file)
    return {
        "weights": file.weights,
        "license": file.license or installed.card.license,
        "urls": list(file.urls),
        "sha256": file.sha256,
        "md5": file.md5,
        "path": str(path) if path else None,
        "size": path.stat().st_size if path else None,
    }


def _file_lines(installed: InstalledCard, file: WeightsFile) -> Iterator[tuple[str, str]]:
    path = installed.find(file)
    yield "file", escape(file.weights)
    if path:
        yield "present", f"{escape(str(path))}, {path.stat().st_size:,} bytes"
    else:
        yield "present", "[yellow]no[/]"
    if file.license:
        yield "licence", license_words(file.license)
    for url in file.urls:
        yield "source", escape(url)
    for name, value in (("sha256", file.sha256), ("md5", file.md5)):
        if value:
            yield name, value


def _sound_file_lines(file: VerifiedFile) -> Iterator[str]:
    stated = f"{' and '.join(file.stated)} as its card states" if file.stated else "its card states no digest"
    yield f"[green]✓[/] {file.part}: {escape(str(file.path))}, {file.size:,} bytes"
    yield f"  sha256 {file.sha256} [dim]({stated})[/]"
    yield f"  {file.parameters:,} parameters fit"
