"""Where policies lie, and reading and writing them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import tomlkit
from pydantic import BaseModel, ValidationError

from worker.atomic_files import write_whole
from worker.model.cards.registry import BUNDLED, MODELS_DIR_VARIABLE, InstalledCard
from worker.model.cards.schema import Format
from worker.model.verdicts.policy import Policy, PolicyError, Sha256

_HEADING = "# Made by `distildire calibrate`; docs/evaluation.md says what each field means.\n"


class _Images(BaseModel):
    """The images that the policy was made of whose evidence has this digest, each by the first digits of its own."""

    data_sha256: Sha256
    images: frozenset[str]


def load_policy(name: str, installed: InstalledCard, weights_sha256: str, precision: Format) -> Policy:
    """Return a model's policy of that name, for a detector with these weights in this number format.

    Raises:
        PolicyError: there is none, it cannot be read, or it was made with other weights or in another number format.
    """
    paths = _by_name(installed)
    if name not in paths:
        known = ", ".join(sorted(paths)) or "none"
        raise PolicyError(
            f"{installed.card.name} has no policy named {name!r}. There are: {known}. Make one with `distildire "
            f"calibrate`, or put its file into {_folder(installed.folders[0], installed.card.name)}."
        )
    return _fitting(paths[name], installed.card.name, weights_sha256, precision)


def load_policies(
    installed: InstalledCard, weights_sha256: str | None, precision: Format | None
) -> tuple[dict[str, Policy], tuple[str, ...]]:
    """Return the policies of a model that can be used, by their names, and of each other one why not.

    One that cannot be used is no reason for a worker to do nothing: it may be meant for others of the fleet.

    Args:
        installed: the model's card.
        weights_sha256: of the model; None where it is not known, and not compared.
        precision: in which it runs; None as well.
    """
    usable: dict[str, Policy] = {}
    problems = []
    for name, path in sorted(_by_name(installed).items()):
        try:
            usable[name] = _fitting(path, installed.card.name, weights_sha256, precision)
        except PolicyError as error:
            problems.append(error.message)
    return usable, tuple(problems)


def list_policies(installed: InstalledCard) -> list[Path]:
    """Return the files of a model's policies, those of the operator's folder before bundled ones."""
    folders = [_folder(folder, installed.card.name) for folder in installed.folders]
    # Names that begin with a dot are what systems leave beside files, or an editor's.
    return [path for folder in folders for path in sorted(folder.glob("[!.]*.toml"))]


def read_policy(path: Path) -> Policy:
    """Read one policy.

    Raises:
        PolicyError: the file is no TOML, or fields are missing, wrong or unknown; all of them are named.
    """
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'policy'}: {e['msg']}" for e in error.errors())
        raise PolicyError(f"The policy {path} is wrong: {faults}. Correct these fields, or calibrate again.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"The policy {path} cannot be read: {error}. Correct or remove it.") from error


def images_of(policy: Policy, installed: InstalledCard) -> frozenset[str] | None:
    """Return the images that a model's policy was made of, by their `short_digests`; None where that is not known.

    Raises:
        PolicyError: the list beside the policy cannot be read.
    """
    place = _images_place(_by_name(installed)[policy.name])
    try:
        found = _Images.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise PolicyError(
            f"{place} is no list of a policy's images. Put the one that `distildire calibrate` wrote back, or remove "
            "it: then nobody knows which images the policy was made of."
        ) from error
    return found.images if found.data_sha256 == policy.evidence.data_sha256 else None


def policy_place(name: str, installed: InstalledCard) -> Path:
    """Return where a new policy of a model is to be written.

    Raises:
        PolicyError: there is one already, or no folder of the operator's own to put it into.
    """
    if installed.folders[0] == BUNDLED:
        raise PolicyError(
            f"There is no folder for policies yet: set {MODELS_DIR_VARIABLE}, or --models-dir, to a folder of your own."
        )
    place = _folder(installed.folders[0], installed.card.name) / f"{name}.toml"
    if place.exists():
        raise PolicyError(f"There is a policy {place} already. Choose another name, or remove it first.")
    return place


def write_policy(policy: Policy, place: Path, images: Sequence[str] | None = None) -> None:
    """Write a policy's file and, before it, the list of its images.

    Args:
        policy: what is written.
        place: as `policy_place` returns it.
        images: which it was made of, by their `short_digests`; None where that is not known.

    Raises:
        PolicyError: it cannot be written.
        DiskFullError: the disk is too full for it.
    """
    text = _HEADING + tomlkit.dumps(policy.model_dump(exclude_none=True))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if images is not None:
            known = {"data_sha256": policy.evidence.data_sha256, "images": images}
            write_whole(_images_place(place), (json.dumps(known, indent=1) + "\n").encode())
        write_whole(place, text.encode())
    except OSError as error:
        raise PolicyError(
            f"{place} cannot be written: {error.strerror}. Nothing was left of it; calibrate again."
        ) from error


def _folder(models_dir: Path, model: str) -> Path:
    return models_dir / f"{model}.policies"


def _images_place(policy: Path) -> Path:
    return policy.with_name(f"{policy.stem}.images.json")


def _by_name(installed: InstalledCard) -> dict[str, Path]:
    return {path.stem: path for path in reversed(list_policies(installed))}


def _fitting(path: Path, model: str, weights_sha256: str | None, precision: Format | None) -> Policy:
    """Read a policy, and refuse one that was renamed, copied from another model, or made for other numbers."""
    policy = read_policy(path)
    if (policy.name, policy.model) != (path.stem, model):
        raise PolicyError(
            f"{path} holds the policy {policy.name!r} of {policy.model}, not {path.stem!r} of {model}: put it where it "
            "belongs."
        )
    if weights_sha256 not in {None, policy.weights_sha256}:
        raise PolicyError(
            f"The policy {path} was made for the weights {policy.weights_sha256}, but {model} has {weights_sha256}: "
            "its rates say nothing of these. Calibrate again."
        )
    if precision not in {None, policy.precision}:
        raise PolicyError(
            f"The policy {path} was made in {policy.precision}, but the model runs in {precision}, which moves "
            f"probabilities. Set DISTILDIRE_PRECISION={policy.precision}, or calibrate again in {precision}."
        )
    return policy
