"""Where the files of policies are, and how they are read and written."""

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
    """The images that a policy was made from.

    `data_sha256`: that of the policy's evidence. `images`: the first digits of each image's digest.
    """

    data_sha256: Sha256
    images: frozenset[str]


def load_policy(name: str, installed: InstalledCard, weights_sha256: str, precision: Format) -> Policy:
    """Return the model's policy of that name, for a detector with these weights in this number format.

    Raises:
        PolicyError: there is none, it cannot be read, or it was made with other weights or in another number format.
    """
    paths = _by_name(installed)
    if name not in paths:
        known = ", ".join(sorted(paths)) or "none"
        raise PolicyError(
            f"{installed.card.name} has no policy named {name!r}. Its policies: {known}. Make one with `distildire "
            f"calibrate`, or put its file into {_folder(installed.folders[0], installed.card.name)}."
        )
    return _fitting(paths[name], installed.card.name, weights_sha256, precision)


def load_policies(
    installed: InstalledCard, weights_sha256: str | None, precision: Format | None
) -> tuple[dict[str, Policy], tuple[str, ...]]:
    """Return the model's usable policies by name, and for each other policy why it cannot be used.

    A policy that cannot be used does not keep a worker from starting: it may be meant for other workers.

    Args:
        installed: the model's card.
        weights_sha256: of the model; None if unknown: then policies are not checked for it.
        precision: in which the model runs; None if unknown: then policies are not checked for it.
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
    """Return the files of a model's policies, those in the operator's folder before bundled ones."""
    folders = [_folder(folder, installed.card.name) for folder in installed.folders]
    # Operating systems and editors leave files whose names begin with a dot.
    return [path for folder in folders for path in sorted(folder.glob("[!.]*.toml"))]


def read_policy(path: Path) -> Policy:
    """Read one policy.

    Raises:
        PolicyError: the file is not TOML, or fields are missing, wrong or unknown; the message names all of them.
    """
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'policy'}: {e['msg']}" for e in error.errors())
        raise PolicyError(f"The policy {path} is wrong: {faults}. Correct these fields, or calibrate again.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"The policy {path} cannot be read: {error}. Correct or remove it.") from error


def images_of(policy: Policy, installed: InstalledCard) -> frozenset[str] | None:
    """Return the `short_digests` of the images that a policy was made from; None if they are not known.

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
            f"{place} is not a list of a policy's images. Restore the file that `distildire calibrate` wrote, or "
            "remove it. Without it, nothing shows which images the policy was made from."
        ) from error
    return found.images if found.data_sha256 == policy.evidence.data_sha256 else None


def policy_place(name: str, installed: InstalledCard) -> Path:
    """Return the path for a new policy of a model.

    Raises:
        PolicyError: there is a policy of that name, or the operator has set no models folder.
    """
    if installed.folders[0] == BUNDLED:
        raise PolicyError(
            f"There is no folder for policies yet: set {MODELS_DIR_VARIABLE}, or --models-dir, to a folder of your own."
        )
    place = _folder(installed.folders[0], installed.card.name) / f"{name}.toml"
    if place.exists():
        raise PolicyError(f"The policy {place} exists already. Choose another name, or remove it first.")
    return place


def write_policy(policy: Policy, place: Path, images: Sequence[str] | None = None) -> None:
    """Write the list of a policy's images, then the policy's file.

    Args:
        policy: the policy.
        place: the path, from `policy_place`.
        images: the `short_digests` of the images that it was made from; None if they are not known.

    Raises:
        PolicyError: a file cannot be written.
        DiskFullError: there is not enough disk space.
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
            f"{place} cannot be written: {error.strerror}. No part of it was kept. Calibrate again."
        ) from error


def _folder(models_dir: Path, model: str) -> Path:
    return models_dir / f"{model}.policies"


def _images_place(policy: Path) -> Path:
    return policy.with_name(f"{policy.stem}.images.json")


def _by_name(installed: InstalledCard) -> dict[str, Path]:
    return {path.stem: path for path in reversed(list_policies(installed))}


def _fitting(path: Path, model: str, weights_sha256: str | None, precision: Format | None) -> Policy:
    """Read a policy. Refuse one that was renamed, or made for another model, other weights or another number format."""
    policy = read_policy(path)
    if (policy.name, policy.model) != (path.stem, model):
        raise PolicyError(
            f"{path} holds the policy {policy.name!r} of {policy.model}, not {path.stem!r} of {model}. Move it to the "
            "path of that policy."
        )
    if weights_sha256 not in {None, policy.weights_sha256}:
        raise PolicyError(
            f"The policy {path} was made for the weights {policy.weights_sha256}, but {model} has {weights_sha256}. "
            "Its rates do not hold for these. Calibrate again."
        )
    if precision not in {None, policy.precision}:
        raise PolicyError(
            f"The policy {path} was made in {policy.precision}, but the model runs in {precision}, which shifts "
            f"probabilities. Set DISTILDIRE_PRECISION={policy.precision}, or calibrate again in {precision}."
        )
    return policy
