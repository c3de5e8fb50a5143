"""`python -m tests.hostile`: fetch the corpora, send all hostile files through the service, print what came of them.

Exits with 1 where a promise was broken, with 2 where a corpus cannot be had.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click

from tests.hostile import old_pillow
from tests.hostile.any_format import open_all
from tests.hostile.corpora import CORPORA, CorpusError, HostileFile, cache_folder, fetch, files
from tests.hostile.generated import generated_files, largest
from tests.hostile.mutations import examples
from tests.hostile.refusals import measure
from tests.hostile.report import ending_lines, memory_line, outcome_lines, refusal_lines
from tests.hostile.run import broken_by, flood, send_all, slow_among
from tests.hostile.service import running


def main() -> int:
    """Run as told by the command line; return the exit status."""
    options = _options()
    try:
        corpora = list(_corpora(options.mirror)) if options.corpora else []
        swapped = old_pillow.old_pillow(cache_folder()) if options.pillow else None
    except CorpusError as error:
        click.echo(error, err=True)
        return 2
    if options.fetch_only:
        return 0
    sent = [*corpora, *generated_files(), *examples(options.mutated)]
    broken, slow = _refuse_bombs()
    if swapped:  # for the processes that are started from here; this one has its Pillow already
        sys.path.insert(0, str(swapped))
        os.environ["PYTHONPATH"] = str(swapped)
    for also_broken, also_slow in (_open_any(sent), _send(sent)):
        broken += also_broken
        slow += also_slow
    click.echo("\n".join([f"{len(broken)} violations", *broken, f"{len(slow)} took too long", *slow]))
    return 1 if broken or (slow and options.timed) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument(
        "--pillow", choices=[old_pillow.VERSION], help="decode with this release, which has known holes"
    )
    parser.add_argument("--mutated", type=int, default=500, help="how many files hypothesis makes out of valid ones")
    parser.add_argument("--no-corpora", dest="corpora", action="store_false", help="send only what is made here")
    parser.add_argument(
        "--untimed",
        dest="timed",
        action="store_false",
        help="forgive what takes too long: on a busy machine",
    )
    parser.add_argument("--fetch-only", action="store_true", help=f"fill {cache_folder()} and end")
    parser.add_argument(
        "--mirror", action="append", default=[], metavar="FROM=TO", help="fetch URLs that begin with FROM from TO"
    )
    return parser.parse_args()


def _corpora(mirrors: list[str]) -> Iterator[HostileFile]:
    places = dict(mirror.split("=", 1) for mirror in mirrors)
    archives = [(corpus, fetch(corpus, cache_folder(), places)) for corpus in CORPORA]
    return chain.from_iterable(files(corpus, archive) for corpus, archive in archives)


def _refuse_bombs() -> tuple[list[str], list[str]]:
    """Return what broke a promise, and what took too long; so do the two below."""
    refusals = measure()
    click.echo("\n".join(refusal_lines(refusals)))
    return [each.broken for each in refusals if each.broken], [each.slow for each in refusals if each.slow]


def _open_any(sent: list[HostileFile]) -> tuple[list[str], list[str]]:
    click.echo(f"\nwith every reader that Pillow has, in the sandbox alone, {_machine()}:")
    endings = open_all(sent)
    click.echo("\n".join(ending_lines(endings)))
    return broken_by(endings), slow_among(endings)


def _send(sent: list[HostileFile]) -> tuple[list[str], list[str]]:
    folder = Path(tempfile.mkdtemp(prefix="distildire-hostile-"))
    with running(folder) as service:
        click.echo(f"\nthrough the service, {_machine()}; logs: {folder}; decoded by {service.pillow()}:")
        outcome = send_all(service, sent)
        click.echo("\n".join(outcome_lines(outcome)))
        most = HostileFile("large", "40 million pixels", largest())
        flooded = flood(service, most)
    click.echo(f"\n{len(flooded.endings)} images of 40 million pixels at once: {memory_line(flooded)}")
    return outcome.violations + flooded.violations, slow_among(outcome.endings)


def _machine() -> str:
    load = os.getloadavg()[0]
    return f"{len(os.sched_getaffinity(0))} cores, load {load:.1f}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
