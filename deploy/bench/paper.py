"""Measures what DistilDIRE saves against DIRE: operations and seconds of both methods, in one run.

DIRE inverts and reconstructs the image; DistilDIRE runs one step of the ADM. Both use the full-size ADM and a
ResNet-50, in the same precision, mode and batch. Weights come from a seed, because operations and seconds do not depend
on them. DIRE's passes run between DistilDIRE's, so that both see the same machine load.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median

import click
import torch
from torch import Tensor

from deploy.bench.model import (
    MODEL,
    count_gflop,
    describe_device,
    describe_machine,
    first_step,
    seconds_taken,
    seeded_detector,
)
from shared.percentages import percent
from worker.model.cards.registry import find_card
from worker.model.cards.schema import ModelCard
from worker.model.diffusion import SpacedDiffusion, dire, dire_unit
from worker.model.loading import Precision, choose_device, choose_dtype
from worker.model.networks.unet import AdmUnet

#: The saving that the paper promises, and the share of the counted ratio that the timed ratio must reach.
LEAST_SAVED, LEAST_OF_RATIO = 0.97, 0.9
_SHORT_PASSES = 3


@dataclass(frozen=True)
class Cost:
    """The cost of one image, from its tensor to its logit."""

    gflop: float
    """Operations of both networks; a multiplication and an addition count as two."""
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """The costs of both methods, measured in one run."""

    dire: Cost
    distilled: Cost
    precision: str
    device: str

    @property
    def saved(self) -> float:
        """The share of DIRE's operations that DistilDIRE saves."""
        return 1 - self.distilled.gflop / self.dire.gflop

    @property
    def counted_ratio(self) -> float:
        """DIRE's operations divided by DistilDIRE's."""
        return self.dire.gflop / self.distilled.gflop

    @property
    def timed_ratio(self) -> float:
        """DIRE's seconds divided by DistilDIRE's."""
        return self.dire.seconds / self.distilled.seconds

    @property
    def kept(self) -> bool:
        """Whether both promises hold."""
        return self.saved >= LEAST_SAVED and self.timed_ratio >= LEAST_OF_RATIO * self.counted_ratio


def compare(card: ModelCard, device: torch.device, precision: Precision, *, rounds: int, batch: int) -> Comparison:
    """Count and time both methods with a card's networks.

    Seconds are medians, of `rounds` passes of DIRE and six times as many of DistilDIRE, by the image of a batch.
    """
    rival = card.model_copy(update={"student": card.student.model_copy(update={"inputs": "dire"})})
    dtype = choose_dtype(precision, device)
    short, long = seeded_detector(card, device, dtype), seeded_detector(rival, device, dtype)
    x = torch.rand(batch, 3, card.image_size, card.image_size) * 2 - 1

    def detect() -> Tensor:
        return short.classify(x, short.noise_map(x)).logit.cpu()

    def reconstruct_and_classify() -> Tensor:
        return long.classify(x, x).logit.cpu()

    short.warm_up(batch)
    quick, slow = list[float](), list[float]()
    for _ in range(rounds):
        quick += [seconds_taken(detect, device) for _ in range(_SHORT_PASSES)]
        slow.append(seconds_taken(reconstruct_and_classify, device))
        quick += [seconds_taken(detect, device) for _ in range(_SHORT_PASSES)]
    return Comparison(
        Cost(count_gflop(rival, reconstructed), median(slow) / batch),
        Cost(count_gflop(card, first_step), median(quick) / batch),
        str(dtype).removeprefix("torch."),
        describe_device(device),
    )


def reconstructed(diffusion: SpacedDiffusion, unet: AdmUnet, x: Tensor) -> Tensor:
    """Return what DIRE's classifier reads."""
    return dire_unit(dire(x, diffusion.reconstruct(unet, x)))


def main() -> None:
    """Print the machine, both methods and the saving; exit with status 1 if it is less than promised."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default=MODEL, help="the card whose networks are built")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--rounds", type=int, default=1, help="passes of DIRE of which the median is printed")
    parser.add_argument("--batch", type=int, default=1, help="images in a pass")
    options = parser.parse_args()
    click.echo(describe_machine())
    card = find_card(options.model).card
    found = compare(card, choose_device("auto"), options.precision, rounds=options.rounds, batch=options.batch)
    click.echo(f"{options.model}, {found.precision} on {found.device}, batches of {options.batch}, of one image:")
    for name, cost in (("DIRE", found.dire), ("DistilDIRE", found.distilled)):
        click.echo(f"{name:10}  {cost.gflop:>10,.1f} GFLOP  {cost.seconds:8.3f} s")
    click.echo(
        f"DistilDIRE saves {percent(found.saved, 2)} of the operations (at least {LEAST_SAVED:.0%} promised), a ratio "
        f"of {found.counted_ratio:.1f}; of the seconds {found.timed_ratio:.1f}, "
        f"{found.timed_ratio / found.counted_ratio:.2f} of that (at least {LEAST_OF_RATIO} promised)"
    )
    raise SystemExit(0 if found.kept else 1)


if __name__ == "__main__":
    main()
