"""`python -m tests.mutants [MODULE …]`: plant small faults one at a time, and list those that no test notices.

Exits with 1 where one is neither noticed nor explained (explained.toml), with 2 where the tests fail without any or not
all were tried.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence

import click

from tests.mutants.modules import MODULES
from tests.mutants.planting import PlantingError, plant
from tests.mutants.survivors import Change, explained


def main() -> int:
    """Run as told by the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", choices=MODULES, metavar="MODULE", help="which; without any, all of them")
    names: Sequence[str] = parser.parse_args().modules or list(MODULES)
    try:
        left = [_show(name) for name in names]
    except PlantingError as error:
        click.echo(error, err=True)
        return 2
    return 1 if any(left) else 0


def _show(name: str) -> int:
    """Plant the faults of a module and print what came of it; return how many nobody noticed or explained."""
    began = time.monotonic()
    found = plant(name, MODULES[name])
    why = {each.change: each.why for each in explained()}
    survivors = [*found.survivors, *found.untested]
    words = [each for each in survivors if each not in why and each.of_words_alone]
    known = [each for each in survivors if each in why]
    new = [each for each in survivors if each not in why and each not in words]
    click.echo(
        f"{name}: {found.total} planted, {found.caught} caught, {len(known)} explained, {len(words)} of words alone, "
        f"{len(new)} survived; {(time.monotonic() - began) / 60:.1f} min"
    )
    click.echo("".join(f"  explained: {why[each]}\n{_lines(each)}" for each in known), nl=False)
    click.echo("".join(f"  words alone:\n{_lines(each)}" for each in words), nl=False)
    click.echo("".join(f"  SURVIVED in {each.file}{_untested(each, found.untested)}:\n{_lines(each)}" for each in new))
    return len(new)


def _untested(change: Change, untested: Iterable[Change]) -> str:
    return ", which none of the tests runs" if change in untested else ""


def _lines(change: Change) -> str:
    lines = [f"    - {line}" for line in change.was.splitlines()] + [
        f"    + {line}" for line in change.became.splitlines()
    ]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
