"""A job's result as its row, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from shared.database.tables import ResultRow
from shared.domain import (
    AnalyzedImage,
    AppliedPolicy,
    Artifact,
    ConfidenceInterval,
    FeatureMean,
    JobResult,
    ModelIdentity,
    Region,
    Stability,
)
from shared.jobs.results import from_row, to_row

_T = TypeVar("_T")
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_NUMBER_FIELDS = {
    float: _NUMBERS,
    float | None: st.none() | _NUMBERS,
    dict[str, float]: st.dictionaries(st.text(), _NUMBERS),
}


def values_of(kind: type[_T], **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[_T]:
    """Any value of a class, its numbers finite; `parts` by field, where hypothesis must be told."""
    numbers = {name: _NUMBER_FIELDS[hint] for name, hint in get_type_hints(kind).items() if hint in _NUMBER_FIELDS}
    return st.builds(kind, **numbers | parts)


POLICIES = values_of(AppliedPolicy, fpr_interval=values_of(ConfidenceInterval))
RESULTS = values_of(
    JobResult,
    policy=st.none() | POLICIES,
    stability=st.none() | values_of(Stability),
    image=values_of(AnalyzedImage),
    artifacts=st.dictionaries(st.text(), values_of(Artifact)),
)
RESULT = JobResult(
    prediction="FAKE",
    confidence=0.9,
    probability_fake=0.9,
    raw_probability_fake=0.9,
    threshold=0.5,
    policy=None,
    stability=None,
    processing_time=0.2,
    device_seconds=0.25,
    image=AnalyzedImage(8, 6, Region(1, 0, 6, 6), "image/png", "PNG", None),
    model=ModelIdentity("M", "ab" * 32, demonstration=True, device="cpu", precision="fp32"),
    timings={},
    caveats=(),
    feature_mean=FeatureMean(b"\0" * 16, 2, 2),
)


def stored(result: JobResult) -> ResultRow:
    """The row of a result after its documents were JSON."""
    row = to_row(UUID(int=1), 1, result)
    for name in ("policy", "stability", "analyzed_region", "timings", "artifacts"):
        setattr(row, name, json.loads(json.dumps(getattr(row, name))))
    return row


@given(result=RESULTS)
def test_a_result_comes_back_from_its_row_as_it_was(result: JobResult):
    assert from_row(stored(result)) == result


def test_a_row_of_a_version_without_policies_states_one_probability_twice():
    row = stored(RESULT)
    row.raw_probability_fake = row.file_format = row.device = row.precision = None
    old = replace(
        RESULT,
        image=replace(RESULT.image, file_format=None),
        model=replace(RESULT.model, device=None, precision=None),
    )
    assert from_row(row) == old
