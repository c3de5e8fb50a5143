"""`distildire analyze`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.commands.options import device_option, models_dir_option, precision_option
from deploy.image_files import gather, stems
from deploy.terminal.console import notes
from deploy.terminal.exits import INTERRUPTED
from deploy.terminal.streams import print_json, readable
from deploy.terminal.verdicts import Row, VerdictView
from shared.domain import DRAWINGS
from shared.errors import JobError

if TYPE_CHECKING:
    from PIL.Image import Image

    from shared.images.visualizations import Floats
    from worker.model import Detector
    from worker.model.loading import Precision
    from worker.model.verdicts.policy import Policy


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…", type=click.Path(path_type=Path))
@click.option(
    "--model", default="DISTILDIRE-DEMO", envvar="DISTILDIRE_MODEL", show_default=True, help="A model's name."
)
@models_dir_option
@device_option
@precision_option
@click.option("--policy", help="A policy of the model; without one, its card's threshold calls verdicts.")
@click.option(
    "--stability", is_flag=True, help="Classify small changes of each image too: five passes in place of one."
)
@click.option(
    "--visualize",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write DIRE map, heatmap and overlay there.",
)
@click.option("--recursive", "-r", is_flag=True, help="Of a folder, classify every image in it and below.")
@click.option("--scores", is_flag=True, help="With --json: the heatmap's numbers too, one for each pixel.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document an image on standard output, nothing else.")
def command(  # noqa: PLR0913  # an option each
    *,
    images: tuple[Path, ...],
    model: str,
    models_dir: Path | None,
    device: str,
    precision: Precision,
    policy: str | None,
    stability: bool,
    visualize: Path | None,
    recursive: bool,
    scores: bool,
    as_json: bool,
) -> None:
    """Classify images in this process; no service is needed.

    The exit code is 0 if every image has a verdict, 1 if one has none, 2 for wrong usage, 130 if it was stopped.
    """
    from worker.model import load_model
    from worker.model.cards.registry import find_card
    from worker.model.verdicts.policy_files import load_policy

    files = gather(images, recursive=recursive)
    if visualize is not None:
        visualize.mkdir(parents=True, exist_ok=True)  # now, so that a wrong path fails before the model runs
    with notes().status(f"Loading {model} …"):
        detector = load_model(model, device, precision, models_dir)
    chosen = None
    if policy is not None:
        chosen = load_policy(policy, find_card(model, models_dir), detector.weights_sha256, detector.precision)
    options = _Options(chosen, stability=stability, visualize=visualize, with_scores=scores)
    rows = [Row(readable(path)) for path in files]
    with VerdictView(rows, as_json=as_json) as view, suppress(KeyboardInterrupt):  # finished verdicts are shown
        for path, stem, row in zip(files, stems(files, len(".dire_map.png")), rows, strict=True):
            row.stage = "diffusing"
            view.refresh(row)
            document = _document(detector, path, stem, options)
            if as_json:
                print_json({"file": str(path), **document})
            row.problem = document.get("error", {}).get("message", "")
            row.result = None if row.problem else document
            view.refresh(row)
    view.conclude()
    if visualize is not None:
        notes().print(f"Pictures: {visualize}/", markup=False)
    if not all(row.ended for row in rows):
        notes().print("Stopped.")
        sys.exit(INTERRUPTED)
    sys.exit(1 if any(row.problem for row in rows) else 0)


@dataclass(frozen=True)
class _Options:
    """What is to be said of each image. `with_scores`: the numbers of the heatmap, which are many."""

    policy: Policy | None
    stability: bool
    visualize: Path | None
    with_scores: bool


def _document(detector: Detector, path: Path, stem: str, options: _Options) -> dict[str, Any]:
    """Classify one image and return its JSON document."""
    try:
        return _judge(detector, path, stem, options)
    except JobError as error:
        return {"error": {"code": str(error.code), "message": error.message}}
    except OSError as error:
        return {"error": {"code": "unreadable_file", "message": str(error.strerror)}}


def _judge(detector: Detector, path: Path, stem: str, options: _Options) -> dict[str, Any]:
    import torch

    from shared.images.visualizations import heatmap_scores
    from worker.imaging.content import drawn_mean
    from worker.imaging.decoding import ImageLimits, decode
    from worker.imaging.perturbations import PERTURBATIONS
    from worker.jobs.caveats import caveats_of
    from worker.model.verdicts.assessment import assess

    began = time.perf_counter()
    decoded = decode(path, ImageLimits())
    changes = PERTURBATIONS if options.stability else ()
    variants = [decoded.image, *(change(decoded.image) for change in changes)]
    detection = detector.detect(torch.stack([detector.preprocess(image) for image in variants]))
    logit, *perturbed = detection.logit[:, 0].tolist()
    content = decoded.facts.content
    assessment = assess(logit, detector.card.threshold, options.policy, perturbed, content=content)
    verdict = assessment.verdict
    mean = detection.feature[0].mean(dim=0).numpy()
    width, height = decoded.image.size
    document: dict[str, Any] = {
        "prediction": verdict.prediction,
        "confidence": verdict.confidence,
        "probability_fake": verdict.probability_fake,
        "raw_probability_fake": assessment.raw_probability_fake,
        "processing_time": time.perf_counter() - began,
        "dimensions": {"width": width, "height": height},
        "input": {
            "media_type": decoded.facts.media_type,
            "format": decoded.facts.file_format,
            "jpeg_quality_estimate": decoded.facts.jpeg_quality,
        },
        "threshold": assessment.threshold,
        "policy": asdict(assessment.policy) if assessment.policy else None,
        "stability": asdict(assessment.stability) if assessment.stability else None,
        "model": asdict(detector.identity),
        "caveats": [*assessment.caveats, *caveats_of(decoded.facts, detector.card.image_size, options.policy, mean)],
    }
    if options.visualize is not None:
        shown = drawn_mean(mean, content)
        names = _write_pictures(options.visualize, stem, decoded.image, detection.eps[0].numpy(), shown)
        document["visualization_path"] = names["dire_map"]
    if options.with_scores:
        document["heatmap_scores"] = heatmap_scores(mean, width, height).tolist()
    return document


def _write_pictures(folder: Path, stem: str, image: Image, eps: Floats, mean: Floats) -> dict[str, str]:
    """Write all pictures; `eps` (3, S, S), `mean` (h, w). Return their paths by name."""
    from shared.images.visualizations import draw_pictures

    pictures = draw_pictures(DRAWINGS, image, eps, mean)
    paths = {name: folder / f"{stem}.{name}.png" for name in pictures}
    for name, path in paths.items():
        path.write_bytes(pictures[name])
    return {name: str(path) for name, path in paths.items()}
