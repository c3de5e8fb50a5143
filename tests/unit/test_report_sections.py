"""The sections of the report's page that look closer."""

from __future__ import annotations

import numpy as np

from worker.evaluation.estimates import Resampling, estimates_of
from worker.evaluation.report.charts import interval_strip
from worker.evaluation.report.sections import figures_table


def test_generators_are_drawn_by_what_does_not_depend_on_how_many_fakes_there_are():
    fake = np.arange(80) < 30
    probabilities = np.random.default_rng(31).random(80) + 0.3 * fake
    told = estimates_of(probabilities, fake, np.arange(80).astype(str), 0.5, Resampling(resamples=50))
    strip = interval_strip(told.estimates["roc_auc"], told.estimates["roc_auc"].value)
    assert strip in figures_table("generator", {"adm": told}, told)
