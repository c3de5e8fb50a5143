"""The metrics of requests: how many, how long, how many refused."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

_REQUESTS = Histogram(
    "distildire_http_request_seconds",
    "Time to answer a request, without the streaming of its body.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_REFUSED = Counter(
    "distildire_submissions_refused", "Submissions refused because too many jobs are open, by code.", ["code"]
)
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request."""
    known = method if method in _METHODS else "other"  # or a client could make any number of time series
    _REQUESTS.labels(known, route, str(status)).observe(seconds)


def count_refusal(code: str) -> None:
    """Count one submission that was refused because too many jobs are open."""
    _REFUSED.labels(code).inc()
