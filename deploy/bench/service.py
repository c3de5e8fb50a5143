"""Measures the speed of the service, end to end over HTTP, and its processor time beyond the model's.

Starts the whole stack of one machine in a temporary folder, posts photographs, and reads the processor time of every
process from /proc. All pictures of each job are drawn and stored.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import click
import torch

from deploy.bench.model import describe_machine
from deploy.bench.processes import cpu_seconds, resident_bytes
from deploy.local.stack import Stack
from deploy.local.stack_file import StackDocument
from shared.client import Client, SubmittedJob
from shared.settings import Settings
from worker.jobs.service import load_detector

SAMPLES = Path(__file__).parents[1] / "samples"
_PHOTOGRAPHS = ("astronaut.*", "chelsea.*", "coffee.*", "rocket.*")
_WARM_UP_JOBS = 16
_LAST = 8  # the last jobs of a load: when they have ended, nearly all have
_STEADY_SHARE = 0.5
_SAMPLE_SECONDS = 0.5
_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Load:
    """The measurements of one load of jobs."""

    jobs: int
    seconds: float
    """From the first POST to the last verdict."""
    latencies: Sequence[float]
    """Seconds from the beginning of each POST to the verdict's commit."""
    core_seconds: Mapping[str, float]
    """Processor time by part of the stack."""
    client_core_seconds: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds

    def latency(self, percent: int) -> float:
        """A percentile of the time from POST to verdict, seconds."""
        return quantiles(self.latencies, n=100, method="inclusive")[percent - 1]

    def core_ms(self, part: str) -> float:
        """Processor time of a part for one job, milliseconds."""
        return 1000 * self.core_seconds[part] / self.jobs


def main() -> None:
    """Print the machine, and the speed and cost of the service."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", default=SAMPLES, help="where the four photographs are")
    parser.add_argument("--jobs", type=int, default=200, help="jobs of the largest load")
    options = parser.parse_args()
    photographs = [path for pattern in _PHOTOGRAPHS for path in options.folder.glob(pattern)]
    if not photographs:
        parser.error(f"{options.folder} has no photograph named {', '.join(_PHOTOGRAPHS)}")
    click.echo(describe_machine())
    measure(photographs, options.jobs)


def measure(photographs: Sequence[Path], jobs: int) -> None:
    """Run the loads on a fresh stack and print the figures."""
    with tempfile.TemporaryDirectory(prefix="distildire-bench-") as data_dir, _stack(Path(data_dir)) as (document, up):
        with (
            Client(document.api_url, document.api_key) as client,
            _peak_memory(_pids(document)["analysis_worker"]) as peak,
        ):
            _run(client, document, photographs, _WARM_UP_JOBS, every=0.0)
            burst = _run(client, document, photographs, jobs, every=0.0)
            steady = _run(client, document, photographs, jobs // 2, every=1 / (_STEADY_SHARE * burst.rate))
        settings = Settings.read(
            database_url=document.database_url,
            redis_url=document.redis_url,
            secret_key="0" * 32,
            s3_endpoint=document.s3["endpoint"],
            s3_access_key=document.s3["access_key"],
            s3_secret_key=document.s3["secret_key"],
        )
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            model_ms = pool.submit(_model_core_ms, settings).result()
    _report(burst, steady, up, model_ms, peak[0])


def _report(burst: Load, steady: Load, up: Mapping[str, float], model_ms: float, peak_bytes: int) -> None:
    parts = {part: burst.core_ms(part) for part in burst.core_seconds}
    total = sum(parts.values())
    click.echo(f"{burst.jobs} jobs at once: {burst.rate:.1f} jobs/s")
    click.echo(
        f"{steady.jobs} jobs at {steady.rate:.1f}/s: POST to verdict {steady.latency(50):.3f} s (p50), "
        f"{steady.latency(95):.3f} s (p95)"
    )
    click.echo(f"core-ms a job: {total:.0f} = model {model_ms:.0f} + service {total - model_ms:.0f} (aim: at most 80)")
    click.echo("  by part: " + ", ".join(f"{part} {cost:.1f}" for part, cost in parts.items()))
    click.echo(f"  load generator, not counted: {1000 * burst.client_core_seconds / burst.jobs:.1f} core-ms a job")
    click.echo(f"analysis worker: ready after {up['analysis_worker']:.1f} s, peak {peak_bytes / 2**20:.0f} MiB (tree)")


@contextmanager
def _stack(data_dir: Path) -> Iterator[tuple[StackDocument, Mapping[str, float]]]:
    """Start the stack; yield its addresses, and the seconds until each part was ready."""
    began: dict[str, float] = {}
    ready: dict[str, float] = {}

    def note(part: str, status: str) -> None:
        if status == "starting":
            began[part] = time.monotonic()
        elif status == "ready":
            ready[part] = time.monotonic() - began[part]

    stack = Stack(data_dir, None, note)
    try:
        yield stack.ensure(), ready
    finally:
        stack.stop()


def _run(client: Client, document: StackDocument, photographs: Sequence[Path], jobs: int, *, every: float) -> Load:
    """Post `jobs` photographs, one every `every` seconds, and wait for the verdicts.

    The client does not poll while the jobs run, because polling would be measured too. The time of a verdict is the
    job's `finished_at`, by the clock of this machine.
    """
    pids = _pids(document)
    core_before = {part: cpu_seconds(pid) for part, pid in pids.items()}
    client_before = time.process_time()
    began = time.time()
    posted: list[tuple[SubmittedJob, float]] = []
    for number, path in enumerate(islice(cycle(photographs), jobs)):
        time.sleep(max(0.0, began + number * every - time.time()))
        posted_at = time.time()
        posted.append((client.submit(path), posted_at))
    client_spent = time.process_time() - client_before
    # Wait for few jobs, because polling costs processor time too.
    client.wait([job.id for job, _ in posted[-_LAST:]], seconds=_TIMEOUT_SECONDS)
    core = {part: cpu_seconds(pid) - core_before[part] for part, pid in pids.items()}
    ended = client.wait([job.id for job, _ in posted], seconds=_TIMEOUT_SECONDS)
    finished = [_finished_at(job) for job in ended]
    latencies = [end - posted_at for end, (_, posted_at) in zip(finished, posted, strict=True)]
    return Load(jobs, max(finished) - began, latencies, core, client_spent)


def _pids(document: StackDocument) -> dict[str, int]:
    return {part: pid for part, pid in document.pids.items() if pid is not None}


def _finished_at(job: SubmittedJob) -> float:
    if job.status != "succeeded":
        raise RuntimeError(f"a job ended as {job.status}: {job.error}")
    return datetime.fromisoformat(job.document["finished_at"]).timestamp()


def _model_core_ms(settings: Settings) -> float:
    """Processor time of the model alone for one image, in full batches as under load, milliseconds."""
    detector = load_detector(settings)
    side = detector.card.image_size
    batch = torch.rand(settings.max_batch, 3, side, side) * 2 - 1
    detector.warm_up(settings.max_batch)
    spent = []
    for _ in range(10):
        before = time.process_time()
        detector.detect(batch)
        spent.append(time.process_time() - before)
    return 1000 * median(spent) / settings.max_batch


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Yield a list of one number: the most memory that the process and its descendants held together, bytes."""
    peak, closed = [0], threading.Event()

    def sample() -> None:
        while not closed.wait(_SAMPLE_SECONDS):
            peak[0] = max(peak[0], resident_bytes(pid))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    yield peak
    closed.set()
    sampler.join()


if __name__ == "__main__":
    main()
