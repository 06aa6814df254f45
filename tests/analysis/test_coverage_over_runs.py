"""Intervals over runs, on studies like the committed ones; ``benchmarks.coverage_over_runs`` has the full figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.estimates import _made_of
from benchmarks.coverage_over_runs import STUDIES, Template, coverage
from mtexp.metrics.interference import antt_rows, stp_rows


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.of(STUDIES["h200"])


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["normal", "two states"])
def test_the_ratio_of_two_modes_is_held_and_its_interval_no_wider_than_needed(template: Template, noise: str) -> None:
    """STP of MPS over time slicing, 38 mixes of the H200 drawn anew. An interval that is 20 % too narrow fails.

    Figures are quick, intervals are not: those of a few studies are held against the errors of many.
    """
    errors = np.array([template.figure(seed, noise, template.freedom) for seed in range(120)]) - template.truth
    found = np.array([template.estimate(seed, noise, 300, template.freedom) for seed in range(12)])
    assert found[:, 0] - template.truth == pytest.approx(errors[:12])
    below, above = found[:, 0] - found[:, 1], found[:, 2] - found[:, 0]
    held = np.mean((errors[:, None] <= below) & (-errors[:, None] <= above))
    width = (below + above).mean() / (2 * 1.96 * errors.std(ddof=1))
    assert held >= 0.91, held
    assert 0.9 < width < 1.3, width
    own = coverage(found, template.truth)
    assert own.held >= 0.8, own


@pytest.mark.parametrize("formula", [stp_rows, antt_rows])
def test_the_interval_of_a_sum_lies_around_the_truth_not_around_twice_its_bias(formula: object) -> None:
    """A sum of exponentials of noisy logarithms is too large on average; its interval must not be so once more."""
    rng, sd = np.random.default_rng(0), 0.3
    logs = np.log([0.5, 0.6, 0.7, 0.4])
    truth = math.log(float(formula(np.exp(logs))))  # type: ignore[operator]
    middles, missed = [], []
    for _ in range(600):
        figure = _made_of(formula, logs + rng.normal(0, sd, 4), rng.normal(0, sd, (4, 400)))  # type: ignore[arg-type]
        interval = figure.interval
        middles.append(math.log(interval.low * interval.high) / 2 - truth)
        missed.append((math.log(interval.low) > truth) - (math.log(interval.high) < truth))
    assert abs(np.mean(middles)) < 0.02, np.mean(middles)  # twice the bias would be 0.07
    assert abs(np.mean(missed)) < 0.03, np.mean(missed)
