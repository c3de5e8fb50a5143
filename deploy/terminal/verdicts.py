"""How verdicts are printed: on a terminal, live while jobs run and then as a table; elsewhere, as plain lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.terminal.console import notes, output
from shared.client import SubmittedJob
from shared.percentages import confidence_level, percent, probability_percent

_BESIDE_ROWS = 4  # lines of a live table besides its rows
_BAR_CELLS = 12
#: The number of characters of a UUID.
_ID_WIDTH = 36
_COLOURS = {"REAL": "green", "FAKE": "red", "INCONCLUSIVE": "yellow"}
#: The highest number of images that a caveat names.
_NAMED = 5
_WAITING = {None: "waiting", "queued": "queued"}


@dataclass
class Row:
    """One image and its state so far."""

    name: str
    known: str = ""  # the true label, if it is known
    status: str | None = None  # of its job; None before there is one
    stage: str | None = None
    result: Mapping[str, Any] | None = None
    problem: str = ""  # why there is no verdict

    @property
    def ended(self) -> bool:
        """Whether the row is final."""
        return self.result is not None or bool(self.problem)

    def show(self, job: SubmittedJob) -> None:
        """Copy the state of the image's job."""
        self.status, self.stage, self.result = job.status, job.stage, job.result
        if job.ended and job.result is None:
            self.problem = job.problem or job.status


class VerdictView:
    """Shows rows that the caller changes: call `refresh` with a row after each change, and `conclude` at the end.

    If standard error is a terminal, it shows a live table while jobs run. Results go to standard output: as a table on
    a terminal, else as a line for each image as soon as it has ended. With `as_json`, the caller prints the results.
    """

    def __init__(self, rows: list[Row], *, as_json: bool, of_jobs: bool = False) -> None:
        """Show `rows`; with `of_jobs` their names are ids of jobs."""
        self._rows = rows
        self._of_jobs = of_jobs
        self._as_json = as_json
        self._output = output()
        self._notes = notes()
        self._live: Live | None = None
        self._told: set[int] = set()

    def __enter__(self) -> Self:
        if self._notes.is_terminal:
            self._live = Live(
                get_renderable=self._table_that_fits, console=self._notes, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the live table, if there is one."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, words: str) -> None:
        """Print a message on standard error."""
        self._notes.print(words, markup=False)

    def refresh(self, row: Row) -> None:
        """Print the row once it has ended: a result on standard output, a problem on standard error."""
        if not row.ended or id(row) in self._told or self._as_json or self._output.is_terminal:
            return
        self._told.add(id(row))
        (self._output if row.result is not None else self._notes).print(_line(row), markup=False)

    def conclude(self) -> None:
        """Print all results, their caveats and the closing remarks."""
        if self._as_json:
            return
        begun = [row for row in self._rows if row.ended or row.status is not None]
        if self._output.is_terminal and begun:
            self._output.print(verdict_table(begun, of_jobs=self._of_jobs))
            for row in self._rows:
                if row.problem:
                    self._notes.print(f"[yellow]{escape(row.name)}[/]: {escape(row.problem)}")
        if any(row.result is not None for row in self._rows):
            self._output.print()
            for line in caveat_lines(self._rows):
                self._output.print(line, markup=False)
            self._output.print(f"[dim]{escape(closing_words(self._rows))}[/]")

    def live_table(self, height: int) -> RenderableType:
        """Return the table of a terminal of `height` lines: the rows that fit, and how many have ended."""
        done = sum(row.ended for row in self._rows)
        shown = _worth_a_line(self._rows, height - _BESIDE_ROWS)
        left_out = f" ({len(self._rows) - len(shown)} more than fit here)" if len(shown) < len(self._rows) else ""
        table = verdict_table(shown, of_jobs=self._of_jobs, live=True)
        return Group(table, Text(f"{done} of {len(self._rows)} done{left_out}", style="dim"))

    def _table_that_fits(self) -> RenderableType:
        return self.live_table(self._notes.height)


def _worth_a_line(rows: list[Row], most: int) -> list[Row]:
    """Return the rows that fit on a small terminal: prefer running images, then waiting ones, then ended ones."""
    if len(rows) <= most:
        return rows
    first = sorted(range(len(rows)), key=lambda index: (rows[index].ended, rows[index].stage is None, index))
    return [rows[index] for index in sorted(first[: max(most, 1)])]


def verdict_table(rows: list[Row], *, of_jobs: bool = False, live: bool = False) -> Table:
    """Return a table of all rows, without columns that would be empty.

    In a live table each row takes one line, so that the number of rows that fit is known: long names are truncated. Ids
    of jobs are never wrapped or truncated; the column of image sizes is omitted to make space for them.
    """
    known = any(row.known for row in rows)
    probed = any(row.result is not None and row.result.get("stability") for row in rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    if of_jobs:
        table.add_column("job", no_wrap=True, min_width=_ID_WIDTH)
    else:
        table.add_column("image", overflow="ellipsis" if live else "fold", no_wrap=live)
    if known:
        table.add_column("known to be", no_wrap=live)
    titles = ("verdict", "confidence", *(() if of_jobs else ("size",)), "seconds")
    for title in titles:
        table.add_column(title, justify="right" if title in ("size", "seconds") else "left", no_wrap=True)
    if probed:
        table.add_column("under small changes", no_wrap=live)
    for row in rows:
        known_of_it = {"verdict": _progress(row, live=live)} if row.result is None else _verdict_cells(row.result)
        cells = [known_of_it.get(title, "") for title in titles]
        changes = [_stability(row.result)] if probed else []
        table.add_row(Text(row.name), *([Text(row.known)] if known else []), *cells, *changes)
    return table


def _verdict_cells(result: Mapping[str, Any]) -> dict[str, RenderableType]:
    """Return the cells of a verdict by the titles of their columns."""
    colour = _COLOURS[result["prediction"]]
    size = result["dimensions"]
    return {
        "verdict": Text(result["prediction"], style=f"bold {colour}"),
        "confidence": confidence_bar(result["confidence"], colour),
        "size": f"{size['width']}×{size['height']}",
        "seconds": f"{result['processing_time']:.2f}",
    }


def confidence_bar(confidence: float, colour: str) -> Text:
    """Return a bar for a probability in [0, 1], with its percentage, which is never 0 % or 100 %."""
    filled = round(confidence * _BAR_CELLS)
    return Text.assemble(
        ("━" * filled, colour), ("━" * (_BAR_CELLS - filled), "dim"), f" {probability_percent(confidence):>4}"
    )


def _progress(row: Row, *, live: bool) -> RenderableType:
    if row.problem:
        return Text("no verdict", style="yellow")
    stage = Text(row.stage or _WAITING.get(row.status, row.status or ""), style="cyan")
    return Spinner("dots", text=stage) if live else stage


def _line(row: Row) -> str:
    known = f" (known to be {row.known})" if row.known else ""
    if row.result is None:
        return f"{row.name}{known}: {row.problem}"
    seconds = row.result["processing_time"]
    verdict = f"{row.result['prediction']} {probability_percent(row.result['confidence'])} in {seconds:.2f} s"
    changes = _stability(row.result)
    return f"{row.name}{known}: {verdict}" + (f"; under small changes {changes}" if changes else "")


def _stability(result: Mapping[str, Any] | None) -> str:
    """Return how much small changes of the image moved its probability; empty if this was not measured."""
    found = result.get("stability") if result else None
    if not found:
        return ""
    low, high = (probability_percent(found[f"probability_{end}"], 1) for end in ("min", "max"))
    return f"flip rate {percent(found['flip_rate'])}, probability of fake {low} to {high}"


def caveat_lines(rows: list[Row]) -> list[str]:
    """Return each caveat once, with the images that it applies to unless it applies to all."""
    classified = [row for row in rows if row.result is not None]
    about: dict[str, list[str]] = {}
    for row in classified:
        for caveat in (row.result or {}).get("caveats", ()):
            about.setdefault(caveat, []).append(row.name)
    return [caveat if len(names) == len(classified) else f"{_some(names)}: {caveat}" for caveat, names in about.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_NAMED])} and {more:,} more"


def closing_words(rows: list[Row]) -> str:
    """Return the remarks that follow every table of verdicts."""
    results = [row.result for row in rows if row.result is not None]
    models = {result["model"]["name"]: result["model"] for result in results}
    policies = [result.get("policy") for result in results]
    words = ["A verdict is evidence, not proof: have a person look before you act on it."]
    words += [_measured(policy) for policy in {each["name"]: each for each in policies if each}.values()]
    words += [
        f"{name} is the demonstration model, trained on a few photographs to show the system: do not moderate with it."
        for name, model in models.items()
        if model["demonstration"]
    ]
    return "\n".join(words)


def _measured(policy: Mapping[str, Any]) -> str:
    interval = policy["fpr_interval"]
    share, low, high = (percent(value, 2) for value in (policy["measured_fpr"], interval["low"], interval["high"]))
    return (
        f"When the policy {policy['name']} was made, it classified {share} of {policy['photographs']:,} photographs "
        f"as FAKE ({confidence_level(interval['confidence'])} interval: {low} to {high})."
    )
