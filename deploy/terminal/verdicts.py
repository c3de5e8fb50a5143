"""How verdicts look in a terminal: live while jobs run, then a table; plain lines where it is no terminal."""

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

_BESIDE_ROWS = 4  # lines of a live table that are no row
_BAR_CELLS = 12
#: The characters of a UUID.
_ID_WIDTH = 36
_COLOURS = {"REAL": "green", "FAKE": "red", "INCONCLUSIVE": "yellow"}
#: A caveat names so many of the images that it is about.
_NAMED = 5
_WAITING = {None: "waiting", "queued": "queued"}


@dataclass
class Row:
    """One image and what is known of it so far."""

    name: str
    known: str = ""  # what it really is, where that is known
    status: str | None = None  # of its job; None before there is one
    stage: str | None = None
    result: Mapping[str, Any] | None = None
    problem: str = ""  # why there is no verdict

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or bool(self.problem)

    def show(self, job: SubmittedJob) -> None:
        """Take over how the image's job stands."""
        self.status, self.stage, self.result = job.status, job.stage, job.result
        if job.ended and job.result is None:
            self.problem = job.problem or job.status


class VerdictView:
    """Shows rows that somebody else changes: call `refresh` with a row after each change, `conclude` at the end.

    Where standard error is a terminal, a live table is there meanwhile. Results go to standard output: a table on a
    terminal, else a line for each image as soon as it has ended. With `as_json` none of that: it is the caller's.
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
            self._live = Live(get_renderable=self._render, console=self._notes, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take the live table away; harmless where there is none."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, words: str) -> None:
        """Say something beside the rows, on standard error."""
        self._notes.print(words, markup=False)

    def refresh(self, row: Row) -> None:
        """Show the row's news; what keeps an image from a verdict is no result, and goes to standard error."""
        if not row.ended or id(row) in self._told or self._as_json or self._output.is_terminal:
            return
        self._told.add(id(row))
        (self._output if row.result is not None else self._notes).print(_line(row), markup=False)

    def conclude(self) -> None:
        """Print the results as a whole, and what has to be said with them."""
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

    def _render(self) -> RenderableType:
        done = sum(row.ended for row in self._rows)
        shown = _worth_a_line(self._rows, self._notes.height - _BESIDE_ROWS)
        left_out = f" ({len(self._rows) - len(shown)} more than fit here)" if len(shown) < len(self._rows) else ""
        table = verdict_table(shown, of_jobs=self._of_jobs, live=True)
        return Group(table, Text(f"{done} of {len(self._rows)} done{left_out}", style="dim"))


def _worth_a_line(rows: list[Row], most: int) -> list[Row]:
    """The rows that fit a small terminal: running ones first, then waiting ones, then ended ones."""
    if len(rows) <= most:
        return rows
    first = sorted(range(len(rows)), key=lambda index: (rows[index].ended, rows[index].stage is None, index))
    return [rows[index] for index in sorted(first[: max(most, 1)])]


def verdict_table(rows: list[Row], *, of_jobs: bool = False, live: bool = False) -> Table:
    """A table of all rows; columns of what is known, or was asked, of no image are left out.

    In a live one each row has one line, so that it is known how many fit: names are cut off where they must be. Ids of
    jobs are never broken or cut off; the image's size leaves them the room.
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
    """The cells of a verdict by the titles of their columns."""
    colour = _COLOURS[result["prediction"]]
    size = result["dimensions"]
    return {
        "verdict": Text(result["prediction"], style=f"bold {colour}"),
        "confidence": confidence_bar(result["confidence"], colour),
        "size": f"{size['width']}×{size['height']}",
        "seconds": f"{result['processing_time']:.2f}",
    }


def confidence_bar(confidence: float, colour: str) -> Text:
    """A bar for a probability in [0, 1], with its percentage, which is never one of certainty."""
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
    called = f"{row.result['prediction']} {probability_percent(row.result['confidence'])} in {seconds:.2f} s"
    changes = _stability(row.result)
    return f"{row.name}{known}: {called}" + (f"; under small changes {changes}" if changes else "")


def _stability(result: Mapping[str, Any] | None) -> str:
    """How far small changes of the image moved what is said of it; empty where nobody asked."""
    found = result.get("stability") if result else None
    if not found:
        return ""
    low, high = (probability_percent(found[f"probability_{end}"], 1) for end in ("min", "max"))
    return f"flip rate {percent(found['flip_rate'])}, probability of fake {low} to {high}"


def caveat_lines(rows: list[Row]) -> list[str]:
    """What a reader must know of each verdict, each caveat once, with the images that it is about if not with all."""
    judged = [row for row in rows if row.result is not None]
    about: dict[str, list[str]] = {}
    for row in judged:
        for caveat in (row.result or {}).get("caveats", ()):
            about.setdefault(caveat, []).append(row.name)
    return [caveat if len(names) == len(judged) else f"{_some(names)}: {caveat}" for caveat, names in about.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_NAMED])} and {more:,} more"


def closing_words(rows: list[Row]) -> str:
    """What has to be said under every table of verdicts."""
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
        f"When the policy {policy['name']} was made, it called {share} of {policy['photographs']:,} photographs FAKE "
        f"({confidence_level(interval['confidence'])} interval: {low} to {high})."
    )
