"""The check of everything that a model needs to run. It reports all problems, not only the first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import nn

from worker.model import self_test
from worker.model.cards.editing import card_to_write, require_own_folder
from worker.model.cards.registry import InstalledCard, ModelError, find_card
from worker.model.cards.schema import Format, WeightsFile
from worker.model.detector import Detector
from worker.model.loading import Precision, assemble, choose, load_weights, unet_on_meta, untrained_student
from worker.model.verdicts.policy_files import load_policies
from worker.model.weights.digests import Algorithm, stated_digests, weights_sha256

Part = Literal["adm", "student"]
SelfTestOutcome = Literal["passed", "failed", "absent", "not run"]


@dataclass(frozen=True)
class VerifiedFile:
    """One of a card's files. If there is a `problem`, the fields after `path` may be unknown."""

    part: Part
    weights: str
    """The name that the card gives it."""
    stated: tuple[Algorithm, ...]
    """The algorithms of the digests that the card states. If there is no problem, the file has all these digests."""
    path: Path | None = None
    size: int = 0
    """Bytes."""
    sha256: str = ""
    """The digest of the published file, even if this file was converted from it."""
    parameters: int = 0
    """How many numbers were read and fit the architecture."""
    problem: str = ""


@dataclass(frozen=True)
class Verification:
    """The result of a model's verification."""

    model: str
    files: tuple[VerifiedFile, VerifiedFile]
    weights_sha256: str = ""
    self_test: SelfTestOutcome = "not run"
    device: str = ""
    precision: Format | None = None
    problem: str = ""
    """A problem of the model as a whole; problems of a file are in `files`."""
    policies: tuple[str, ...] = ()
    """The names of the usable policies."""
    policy_problems: tuple[str, ...] = ()
    """Why other policies cannot be used. A worker ignores those policies."""

    @property
    def faults(self) -> tuple[str, ...]:
        """All problems that keep a worker from starting, with the remedies."""
        return tuple(problem for problem in (*(file.problem for file in self.files), self.problem) if problem)

    @property
    def problems(self) -> tuple[str, ...]:
        """All problems, with the remedies."""
        return (*self.faults, *self.policy_problems)


def verify(
    name: str,
    models_dir: Path | str | None = None,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    record: bool = False,
) -> Verification:
    """Check each file of a model, run its self-test on the device, and check its policies.

    Args:
        name: as in the card.
        models_dir: as in `load_model`, like `device` and `precision`.
        device: where the self-test runs.
        precision: in which the self-test runs.
        record: first replace the card's self-test with the output of these files on a CPU in float32. A bundled card
            is copied into the models folder for this.

    Raises:
        ModelError: there is no such card, device or backbone; the output cannot be recorded; or no models folder is
            set for the copy of a bundled card.
    """
    folder = Path(models_dir) if models_dir else None
    installed = find_card(name, folder)
    card = installed.card
    if record:
        require_own_folder(installed)
    target, dtype = choose(card, *(("cpu", "fp32") if record else (device, precision)))
    unet, student = unet_on_meta(installed), untrained_student(installed)
    files = _verify_file("adm", installed, card.adm, unet), _verify_file("student", installed, card.student, student)
    if any(file.problem for file in files):
        return Verification(name, files, policy_problems=load_policies(installed, None, None)[1])
    sha256 = weights_sha256(files[0].sha256, files[1].sha256)
    detector = assemble(card, unet, student, target, dtype, weights_sha256=sha256)
    if record:
        self_test.record(detector, card_to_write(installed))
        return verify(name, folder)
    outcome, problem = _self_test(detector)
    policies, policy_problems = load_policies(installed, sha256, detector.precision)
    return Verification(
        name,
        files,
        sha256,
        outcome,
        str(detector.device),
        detector.precision,
        problem,
        tuple(policies),
        policy_problems,
    )


def _verify_file(part: Part, installed: InstalledCard, stated: WeightsFile, network: nn.Module) -> VerifiedFile:
    path = installed.find(stated)
    size = path.stat().st_size if path else 0
    known = VerifiedFile(part, stated.weights, tuple(stated_digests(stated)), path, size)
    try:
        sha256 = load_weights(installed, stated, network)
    except ModelError as error:
        return replace(known, problem=error.message)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return replace(known, sha256=sha256, parameters=parameters)


def _self_test(detector: Detector) -> tuple[SelfTestOutcome, str]:
    try:
        return ("passed" if self_test.check(detector) else "absent"), ""
    except self_test.SelfTestError as error:
        return "failed", error.message
