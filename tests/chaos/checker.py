"""The history checker, after Jepsen's method: what clients were promised, held against what is there at the end.

Pure: it decides from values alone. `check` returns every broken promise, an empty list for a run without any.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from tests.chaos.evidence import TERMINAL, Evidence

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Broken(StrEnum):
    """The promises, each by the way in which it can be broken."""

    LOST = "an accepted job is not there"
    STUCK = "a job has not ended"
    DOUBLED = "a job is there twice, or has two results"
    RESULT = "a job's result and its state do not agree"
    CHANGED = "a job that had ended changed afterwards"
    CONTRADICTED = "somebody was told another outcome than the job has"
    ARTIFACT_MISSING = "a stored image is not there"
    ARTIFACT_CHANGED = "a stored image is not what was stored"
    WEBHOOK_MISSING = "an endpoint was not told"
    WEBHOOK_DOUBLED = "an endpoint was told under two ids"
    WEBHOOK_CHANGED = "a webhook's tries had different bodies"
    WEBHOOK_UNKNOWN = "something was sent that is no webhook of this endpoint"
    OVERCOUNTED = "more deaths were counted against a job than can have happened to it"
    EXHAUSTED = "a job that kills no worker failed as one that does"
    GHOST = "a worker is shown that is gone"


@dataclass(frozen=True)
class Violation:
    """One broken promise."""

    broken: Broken
    job: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.broken.name}: {self.broken} (job {self.job}{self.detail and ': '}{self.detail})"


def check(evidence: Evidence) -> list[Violation]:
    """Return every violation that the evidence shows, in the order of the promises."""
    found = [
        *_lost(evidence),
        *_stuck(evidence),
        *_doubled(evidence),
        *_results(evidence),
        *_changed(evidence),
        *_contradicted(evidence),
        *_artifacts(evidence),
        *_webhooks(evidence),
        *_accounts(evidence),
        *(Violation(Broken.GHOST, "-", worker) for worker in evidence.ghosts),
    ]
    order = list(Broken)
    return sorted(found, key=lambda violation: order.index(violation.broken))


def _lost(evidence: Evidence) -> Iterator[Violation]:
    there = {row.job for row in evidence.jobs}
    for accepted in evidence.accepted:
        if accepted.job not in there:
            yield Violation(Broken.LOST, accepted.job, f"accepted at {accepted.at:.3f}")


def _stuck(evidence: Evidence) -> Iterator[Violation]:
    """Every row counts, also of a submission whose answer was lost on its way."""
    for row in evidence.jobs:
        if row.state not in TERMINAL:
            yield Violation(Broken.STUCK, row.job, row.state)


def _doubled(evidence: Evidence) -> Iterator[Violation]:
    for what, jobs in (
        ("acceptances", (each.job for each in evidence.accepted)),
        ("rows", (row.job for row in evidence.jobs)),
        ("results", (row.job for row in evidence.results)),
    ):
        for job, count in Counter(jobs).items():
            if count > 1:
                yield Violation(Broken.DOUBLED, job, f"{count} {what}")


def _results(evidence: Evidence) -> Iterator[Violation]:
    with_result = {row.job: row for row in evidence.results}
    for row in evidence.jobs:
        result = with_result.get(row.job)
        if (result is not None) != (row.state == "succeeded"):
            yield Violation(Broken.RESULT, row.job, f"{row.state} {'with' if result else 'without'} a result")
        elif result is not None and {each.name for each in result.artifacts} != set(row.pictures):
            yield Violation(Broken.RESULT, row.job, "has other pictures than were asked for")


def _changed(evidence: Evidence) -> Iterator[Violation]:
    final = {row.job: row.digest for row in evidence.jobs}
    for job, snapshots in _grouped((each.job, each) for each in evidence.snapshots).items():
        digests = {each.digest for each in snapshots} | {final.get(job, "gone")}
        if len(digests) > 1:
            first = min(each.at for each in snapshots)
            yield Violation(Broken.CHANGED, job, f"{len(digests)} versions since it was seen to have ended at {first}")


def _contradicted(evidence: Evidence) -> Iterator[Violation]:
    final = {row.job: row.state for row in evidence.jobs}
    for told in sorted(set(evidence.observed), key=str):
        if told.job in final and final[told.job] != told.state:
            yield Violation(Broken.CONTRADICTED, told.job, f"{told.by} said {told.state}, it is {final[told.job]}")


def _artifacts(evidence: Evidence) -> Iterator[Violation]:
    rows = {row.job: row for row in evidence.jobs}
    for accepted in evidence.accepted:
        if accepted.job in rows:
            yield from _held_against_store(evidence, accepted.job, rows[accepted.job].source_key, accepted.sha256)
    for result in evidence.results:
        for artifact in result.artifacts:
            yield from _held_against_store(evidence, result.job, artifact.key, artifact.sha256)


def _held_against_store(evidence: Evidence, job: str, key: str, sha256: str) -> Iterator[Violation]:
    stored = evidence.stored.get(key)
    if stored is None:
        yield Violation(Broken.ARTIFACT_MISSING, job, key)
    elif stored != sha256:
        yield Violation(Broken.ARTIFACT_CHANGED, job, key)


def _webhooks(evidence: Evidence) -> Iterator[Violation]:
    ids = {(row.job, row.endpoint, row.message) for row in evidence.deliveries}
    sent = {(each.job, each.endpoint, each.message) for each in evidence.receipts}
    for job, endpoint, message in sorted(sent - ids):
        yield Violation(Broken.WEBHOOK_UNKNOWN, job, f"{message} at {endpoint}")
    for (job, endpoint), messages in _grouped(((job, end), message) for job, end, message in ids | sent).items():
        if len(set(messages)) > 1:
            yield Violation(Broken.WEBHOOK_DOUBLED, job, f"{sorted(set(messages))} at {endpoint}")
    for (job, message), bodies in _grouped(((r.job, r.message), r.body_sha256) for r in evidence.receipts).items():
        if len(set(bodies)) > 1:
            yield Violation(Broken.WEBHOOK_CHANGED, job, f"{message}: {len(set(bodies))} bodies")
    yield from _untold(evidence)


def _untold(evidence: Evidence) -> Iterator[Violation]:
    received = {(each.job, each.endpoint) for each in evidence.receipts if each.answered}
    state = {(row.job, row.endpoint): row.state for row in evidence.deliveries}
    for row in evidence.jobs:
        if row.state not in TERMINAL:
            continue
        for endpoint in evidence.endpoints.get(row.tenant, ()):
            pair = row.job, endpoint
            if pair not in received or state.get(pair) != "delivered":
                detail = f"{endpoint}: {state.get(pair, 'not written')}"
                yield Violation(Broken.WEBHOOK_MISSING, row.job, detail)


def _accounts(evidence: Evidence) -> Iterator[Violation]:
    """No image of these runs kills its worker, so whatever was counted must have come from outside."""
    for row in evidence.jobs:
        possible = sum(row.created <= at <= row.ended for at in evidence.incidents)
        if row.deaths > possible:
            yield Violation(Broken.OVERCOUNTED, row.job, f"{row.deaths} counted, {possible} possible")
        if row.error == "attempts_exhausted":
            yield Violation(Broken.EXHAUSTED, row.job, f"after {row.deaths} deaths")


def _grouped(pairs: Iterable[tuple[_K, _V]]) -> Mapping[_K, Collection[_V]]:
    groups: dict[_K, list[_V]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups
