"""Measures the speed of the model without the service: the full-size ADM and its student, against a convolution.

Weights come from a seed, so nothing is downloaded. Each precision is measured in a separate process, so that peak
memory is separate too. Passes of the model and of the convolution alternate, and their medians are compared, because
both slow down together when the machine is busy.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deploy.bench.seeded_weights import seeded_state
from shared.percentages import percent
from worker.model.cards.registry import find_card
from worker.model.cards.schema import ModelCard
from worker.model.detector import Detector
from worker.model.diffusion import SpacedDiffusion
from worker.model.loading import Precision, assemble, choose_device, choose_dtype
from worker.model.networks.student import Student
from worker.model.networks.unet import AdmUnet

MODEL = "DISTILDIRE-V1"


@dataclass(frozen=True)
class ModelSpeed:
    """Medians for one precision, one image at a time."""

    precision: str
    device: str
    seconds: float
    """Seconds from an image (a batch of one) to eps, logit and feature map."""
    gflop: float
    """Operations of both networks for one image; a multiplication and an addition count as two."""
    convolution_gflops: float
    """Rate of a 3 x 3 convolution, 512 to 512 channels, 64 x 64 pixels, in the same precision."""
    peak_bytes: int
    """Of the process, or of the GPU's memory, building the networks included."""

    @property
    def roof_seconds(self) -> float:
        """The seconds that an image would take if everything ran at the convolution's rate."""
        return self.gflop / self.convolution_gflops

    @property
    def share_of_roof(self) -> float:
        """The speed as a share of the convolution's: 1 if the whole pass ran at its rate."""
        return self.roof_seconds / self.seconds


def measure(precision: Precision, rounds: int) -> ModelSpeed:
    """Build the published detector with seeded weights and time it, alternating with the convolution."""
    device = choose_device("auto")
    dtype = choose_dtype(precision, device)
    card = find_card(MODEL).card
    with torch.inference_mode():
        gflop = count_gflop(card, first_step)
        detector = seeded_detector(card, device, dtype)
        x = torch.rand(1, 3, card.image_size, card.image_size) * 2 - 1
        convolve, convolution_gflop = _convolution(device, dtype)
        detector.warm_up(1)
        seconds_taken(convolve, device, repeat=3)
        passes, convolutions = [], []
        for _ in range(rounds):
            convolutions.append(seconds_taken(convolve, device, repeat=10))
            passes.append(seconds_taken(lambda: detector.detect(x), device))
    return ModelSpeed(
        precision=str(dtype).removeprefix("torch."),
        device=describe_device(device),
        seconds=median(passes),
        gflop=gflop,
        convolution_gflops=convolution_gflop / median(convolutions),
        peak_bytes=_peak_bytes(device),
    )


def measure_all(precisions: tuple[Precision, ...], rounds: int) -> list[ModelSpeed]:
    """Measure each precision in a fresh process."""
    spawn = get_context("spawn")  # a fork would inherit torch's threads and this process's memory
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, max_tasks_per_child=1) as pool:
        return [pool.submit(measure, precision, rounds).result() for precision in precisions]


def describe_machine() -> str:
    """One line: processor, cores that this process may use, threads of torch, memory, load, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    capabilities = [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores ({torch.get_num_threads()} threads), {memory:.0f} GiB, "
        f"{', '.join(capabilities) or 'no native bfloat16'}, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    """Print the machine and a line for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="passes of which the median is printed")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16", "fp16"], help="default: fp32, bf16")
    options = parser.parse_args()
    click.echo(describe_machine())
    for speed in measure_all(tuple(options.precision or ("fp32", "bf16")), options.rounds):
        click.echo(
            f"{speed.precision}: {speed.seconds:.2f} s an image on {speed.device}; "
            f"3x3 convolution {speed.convolution_gflops:.0f} GFLOP/s, "
            f"at which {speed.gflop:.0f} GFLOP take {speed.roof_seconds:.2f} s: {percent(speed.share_of_roof)} of the "
            f"roof; peak memory {speed.peak_bytes / 2**30:.2f} GiB"
        )


def seeded_detector(card: ModelCard, device: torch.device, dtype: torch.dtype) -> Detector:
    """Assemble a card's detector with weights from seeds."""
    with torch.device("meta"):
        unet, student = AdmUnet(card.adm, card.image_size), Student(card.student)
    for seed, network in enumerate((unet, student)):
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        network.load_state_dict(seeded_state(shapes, seed), assign=True)
    return assemble(card, unet, student, device, dtype, weights_sha256="seeded")


def first_step(diffusion: SpacedDiffusion, unet: AdmUnet, x: Tensor) -> Tensor:
    """Return what DistilDIRE's student reads beside the image."""
    return diffusion.first_step_eps(unet, x)


def count_gflop(card: ModelCard, noise: Callable[[SpacedDiffusion, AdmUnet, Tensor], Tensor]) -> float:
    """Count the operations of one image without computing them."""
    with torch.device("meta"), torch.inference_mode():
        unet, student = AdmUnet(card.adm, card.image_size), Student(card.student).eval()
        x = torch.zeros(1, 3, card.image_size, card.image_size)
        with FlopCounterMode(display=False) as counter:
            student(x, noise(SpacedDiffusion(card.diffusion), unet, x))
    return float(counter.get_total_flops()) / 1e9


def _convolution(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """The commonest layer of ADM: what runs it, and its GFLOP."""
    layer = nn.Conv2d(512, 512, 3, padding=1).to(device, dtype).to(memory_format=torch.channels_last)
    x = torch.rand(1, 512, 64, 64).to(device, dtype).contiguous(memory_format=torch.channels_last)
    return lambda: layer(x), 2 * 9 * 512 * 512 * 64 * 64 / 1e9


def seconds_taken(run: Callable[[], object], device: torch.device, repeat: int = 1) -> float:
    """Return the mean seconds of `repeat` runs in a row, until the device has finished."""
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / repeat


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def describe_device(device: torch.device) -> str:
    """Return the device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
