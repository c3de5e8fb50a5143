"""`heatmap_scores` as JSON, computed in bands while it is sent: the numbers of an image are never all in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import numpy as np
from flask import Response
from numpy.typing import NDArray

from shared.domain import JobResult, Region
from shared.images.visualizations import DRAWN_FLAT, heatmap_rows

_DECIMALS = 4
_STEPS = 10**_DECIMALS
#: Every possible number with its comma, all of the same length: looking one up is many times faster than formatting.
_NUMBERS = np.array([f"{step / _STEPS:.{_DECIMALS}f}," for step in range(_STEPS + 1)], dtype=f"S{_DECIMALS + 3}")


def feature_mean(result: JobResult) -> NDArray[np.float32]:
    """Return the stored (h, w) mean of the feature map."""
    stored = result.feature_mean
    return np.frombuffer(stored.values, dtype="<f4").astype(np.float32).reshape(stored.height, stored.width)


def drawn_mean(result: JobResult) -> NDArray[np.float32]:
    """Return the mean that the pictures show: flat where the result says so."""
    mean = feature_mean(result)
    return np.zeros_like(mean) if DRAWN_FLAT in result.caveats else mean


def stream_heatmap(result: JobResult, region: Region, width: int, height: int) -> Response:
    """Return `{"width", "height", "region", "heatmap_scores"}` at any size."""
    document = {"width": width, "height": height, "region": asdict(region), "heatmap_scores": ...}
    return _stream(document, result, width, height)


def stream_with_scores(document: dict[str, Any], result: JobResult) -> Response:
    """Return a job's document with `result.heatmap_scores` at the size of the original."""
    shown = {**document, "result": {**document["result"], "heatmap_scores": ...}}
    return _stream(shown, result, result.image.width, result.image.height)


def _stream(document: dict[str, Any], result: JobResult, width: int, height: int) -> Response:
    """Send `document` with the numbers in place of its one `...`."""
    place = uuid4().hex  # random, so no document contains it
    before, after = json.dumps(document, default=lambda _: place).split(f'"{place}"')
    body = _around(before, _numbers(feature_mean(result), width, height), after)
    return Response(body, mimetype="application/json")


def _around(before: str, numbers: Iterator[bytes], after: str) -> Iterator[bytes]:
    yield before.encode()
    yield from numbers
    yield after.encode()


def _numbers(mean: NDArray[np.float32], width: int, height: int) -> Iterator[bytes]:
    """Yield a JSON array of `height` arrays of `width` numbers with four decimals."""
    opening = b"["
    for band in heatmap_rows(mean, width, height):
        steps = (band * _STEPS + 0.5).astype(np.int16)
        rows = (_NUMBERS[row].tobytes()[:-1] for row in steps)
        yield opening + b",".join(b"[" + row + b"]" for row in rows)
        opening = b","
    yield b"]"
