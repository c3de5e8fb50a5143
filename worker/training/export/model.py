"""Writes the results of a training to its folder: a model that `load_model` loads, and its report."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.atomic_files import write_whole
from worker.model.cards.editing import report_place
from worker.model.cards.registry import InstalledCard, ModelError, read_card
from worker.model.cards.schema import ModelCard, StudentConfig, UnetConfig
from worker.model.loading import load_model
from worker.model.self_test import record
from worker.model.weights.digests import digests, published_digests
from worker.model.weights.installation import Recognised, place
from worker.training.export.files import CardText, PublishedFile, card_toml
from worker.training.export.report import provenance
from worker.training.request import TrainingRequest

log = logging.getLogger(__name__)

_THRESHOLD = 0.5
_MEANINGLESS = "A control: it was trained on shuffled labels, so its verdicts mean nothing."


@dataclass(frozen=True)
class TrainedModel:
    """The model that one request trains: its files.

    `installed`: the card whose ADM made the noise maps. `adm_path`: the file of that ADM's weights. `adm_sha256`: the
    digest of the published file; `adm_path` is that file, or was converted from it.
    """

    request: TrainingRequest
    installed: InstalledCard
    adm_path: Path
    adm_sha256: str

    def write(self, student: PublishedFile, report: dict[str, Any]) -> None:
        """Write report and card beside the student's weights, check that the card loads, and record its self-test.

        A card that is already for these weights is kept, because it may hold evaluations and a threshold by now.
        """
        target = self.request.out / f"{self.request.name}.toml"
        adm = self.place_adm()
        content = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        write_whole(report_place(target, self.request.name), content.encode())
        if _is_of(target, student):
            log.info("%s is for these weights already and is kept; remove it to have it written again", target)
        else:
            write_whole(target, self._card(report, adm, student).encode())
        detector = load_model(self.request.name, "cpu", "fp32", self.request.out)
        if detector.card.self_test is None:
            record(detector, target)

    def _card(self, report: dict[str, Any], adm: PublishedFile, student: PublishedFile) -> str:
        """Return the new card as TOML."""
        request, card = self.request, self.installed.card
        text = CardText(
            name=request.name,
            license=request.license,
            threshold=_THRESHOLD,
            image_size=card.image_size,
            unet=architecture(card),
            student=StudentConfig(
                **{name: getattr(request.recipe.student, name) for name in StudentConfig.model_fields}
            ),
            provenance=provenance(report),
            diffusion=card.diffusion,
            precision="fp32" if request.recipe.reads_dire else card.precision,
            demonstration=request.recipe.card.demonstration or request.permute_labels,  # every result states it
            notice=_MEANINGLESS if request.permute_labels else request.recipe.card.notice,
        )
        return card_toml(text, adm, student)

    def place_adm(self) -> PublishedFile:
        """Link the ADM's weights beside the card, or copy them if the folder is on another disk.

        The card states the URLs only if the file has the digest of the published file; a converted file has not.
        """
        target, card = self.request.out / self.adm_path.name, self.installed.card
        adm, license_ = card.adm, card.adm.license or card.license
        if not target.exists():  # an existing file is the same: `pipeline.prepare` checked it
            file = Recognised(self.adm_path, adm, published_digests(self.adm_path), target)
            try:
                place(file, link=True)
            except ModelError:
                place(file)
        sha256 = digests(target, ["sha256"])["sha256"]
        return PublishedFile(
            target,
            sha256,
            urls=adm.urls if sha256 == self.adm_sha256 else (),
            license=None if license_ == self.request.license else license_,
        )


def _is_of(card: Path, student: PublishedFile) -> bool:
    return card.exists() and read_card(card).student.sha256 == student.sha256


def architecture(card: ModelCard) -> UnetConfig:
    """Return the configuration of a card's U-Net."""
    return UnetConfig(**{name: getattr(card.adm, name) for name in UnetConfig.model_fields})
