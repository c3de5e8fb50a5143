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

from deploy.terminal import notes, output

_BAR_CELLS = 12
_COLOURS = {"REAL": "green", "FAKE": "red", "INCONCLUSIVE": "yellow"}
_NO_POLICY = (
    "No policy was chosen: how often the model's own threshold calls photographs like yours FAKE is not known here."
)
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


class VerdictView:
    """Shows rows that somebody else changes: call `refresh` with a row after each change, `conclude` at the end.

    Where standard error is a terminal, a live table is there meanwhile. Results go to standard output: a table on a
    terminal, else a line for each image as soon as it has ended. With `as_json` none of that: it is the caller's.
    """

    def __init__(self, rows: list[Row], *, as_json: bool) -> None:
        self._rows = rows
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
        if self._live is not None:
            self._live.stop()

    def refresh(self, row: Row) -> None:
        """Show the row's news."""
        if row.ended and id(row) not in self._told and not self._as_json and not self._output.is_terminal:
            self._told.add(id(row))
            self._output.print(_line(row), markup=False)

    def conclude(self) -> None:
        """Print the results as a whole, and what has to be said with them."""
        if self._as_json:
            return
        if self._output.is_terminal:
            self._output.print(verdict_table(self._rows))
            for row in self._rows:
                if row.problem:
                    self._output.print(f"[yellow]{escape(row.name)}[/]: {escape(row.problem)}")
        if any(row.result is not None for row in self._rows):
            self._output.print(f"\n[dim]{escape(closing_words(self._rows))}[/]")

    def _render(self) -> RenderableType:
        done = sum(row.ended for row in self._rows)
        return Group(verdict_table(self._rows), Text(f"{done} of {len(self._rows)} done", style="dim"))


def verdict_table(rows: list[Row]) -> Table:
    """A table of all rows; columns of what is known, or was asked, of no image are left out."""
    known = any(row.known for row in rows)
    probed = any(row.result is not None and row.result.get("stability") for row in rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    table.add_column("image", overflow="fold")
    if known:
        table.add_column("known to be")
    for title in ("verdict", "confidence", "size", "seconds"):
        table.add_column(title, justify="right" if title in ("size", "seconds") else "left", no_wrap=True)
    if probed:
        table.add_column("under small changes")
    for row in rows:
        cells = _verdict_cells(row.result) if row.result is not None else (_progress(row), "", "", "")
        changes = [_stability(row.result)] if probed else []
        table.add_row(Text(row.name), *([Text(row.known)] if known else []), *cells, *changes)
    return table


def _verdict_cells(result: Mapping[str, Any]) -> tuple[RenderableType, ...]:
    colour = _COLOURS[result["prediction"]]
    size = result["dimensions"]
    return (
        Text(result["prediction"], style=f"bold {colour}"),
        confidence_bar(result["confidence"], colour),
        f"{size['width']}×{size['height']}",
        f"{result['processing_time']:.2f}",
    )


def confidence_bar(confidence: float, colour: str) -> Text:
    """A bar for a probability in [0, 1], with its percentage."""
    filled = round(confidence * _BAR_CELLS)
    return Text.assemble(("━" * filled, colour), ("━" * (_BAR_CELLS - filled), "dim"), f" {confidence:4.0%}")


def _progress(row: Row) -> RenderableType:
    if row.problem:
        return Text("no verdict", style="yellow")
    return Spinner("dots", text=Text(row.stage or _WAITING.get(row.status, row.status or ""), style="cyan"))


def _line(row: Row) -> str:
    known = f" (known to be {row.known})" if row.known else ""
    if row.result is None:
        return f"{row.name}{known}: {row.problem}"
    seconds = row.result["processing_time"]
    called = f"{row.result['prediction']} {row.result['confidence']:.0%} in {seconds:.2f} s"
    changes = _stability(row.result)
    return f"{row.name}{known}: {called}" + (f"; under small changes {changes}" if changes else "")


def _stability(result: Mapping[str, Any] | None) -> str:
    """How far small changes of the image moved what is said of it; empty where nobody asked."""
    found = result.get("stability") if result else None
    if not found:
        return ""
    low, high = found["probability_min"], found["probability_max"]
    return f"flip rate {found['flip_rate']:.0%}, probability of fake {low:.3f} to {high:.3f}"


def closing_words(rows: list[Row]) -> str:
    """What has to be said under every table of verdicts."""
    results = [row.result for row in rows if row.result is not None]
    models = {result["model"]["name"]: result["model"] for result in results}
    policies = [result.get("policy") for result in results]
    words = ["A verdict is evidence, not proof: have a person look before you act on it."]
    words += [_measured(policy) for policy in {each["name"]: each for each in policies if each}.values()]
    if None in policies:
        words.append(_NO_POLICY)
    if any(result["prediction"] == "INCONCLUSIVE" for result in results):
        words.append("INCONCLUSIVE is no evidence of FAKE.")
    words += [
        f"{name} is the demonstration model, trained on a few photographs to show the system: do not moderate with it."
        for name, model in models.items()
        if model["demonstration"]
    ]
    return "\n".join(words)


def _measured(policy: Mapping[str, Any]) -> str:
    interval = policy["fpr_interval"]
    share, of_all = f"{policy['measured_fpr']:.2%}", f"{policy['photographs']:,}"
    return (
        f"When the policy {policy['name']} was made, it called {share} of {of_all} photographs FAKE "
        f"({interval['confidence']:.0%} interval: {interval['low']:.2%} to {interval['high']:.2%})."
    )
