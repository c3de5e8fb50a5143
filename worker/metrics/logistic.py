"""Logistic regression on a few features, by Newton's method."""

from __future__ import annotations

import numpy as np

from worker.metrics.ranking import Floats
from worker.model.verdicts.verdict import sigmoids

_STEPS = 100
_TOLERANCE = 1e-12


def fit_logistic(features: Floats, targets: Floats, weights: Floats, ridge: float = 0.0) -> Floats:
    """Return the coefficients (D,) that minimise the weighted negative log-likelihood.

    Args:
        features: (N, D); a column of ones gives an intercept.
        targets: (N,), probabilities of the positive class, in [0, 1].
        weights: (N,), how much each row counts.
        ridge: the penalty; ridge / 2 times the sum of the squared coefficients is added to the loss. Without it,
            separable classes with targets of 0 and 1 have no finite minimum, and the search ends after a fixed number
            of steps.
    """

    def loss(coefficients: Floats) -> float:
        scores = features @ coefficients
        likelihood = weights @ (np.logaddexp(0, scores) - targets * scores)
        return float(likelihood + ridge / 2 * coefficients @ coefficients)

    coefficients = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        probabilities = sigmoids(features @ coefficients)
        gradient = features.T @ (weights * (probabilities - targets)) + ridge * coefficients
        curvature = (features.T * (weights * probabilities * (1 - probabilities))) @ features
        step = np.linalg.lstsq(curvature + ridge * np.eye(len(coefficients)), gradient)[0]
        before, size = loss(coefficients), 1.0
        while loss(coefficients - size * step) > before and size > _TOLERANCE:
            size /= 2  # far from the minimum, a full Newton step may overshoot
        coefficients = coefficients - size * step
        if before - loss(coefficients) <= _TOLERANCE * abs(before):
            break
    return coefficients


def predict_logistic(features: Floats, coefficients: Floats) -> Floats:
    """Return the probabilities (N,) of the positive class."""
    return sigmoids(features @ coefficients)
