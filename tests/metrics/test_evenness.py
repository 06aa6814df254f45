"""Fairness and Jain's index with the noise taken off, against the truth in simulated runs."""

from __future__ import annotations

import numpy as np
import pytest

from mtexp.metrics.evenness import (
    Evenness,
    fairness_without_noise,
    jain_without_noise,
    mean_fairness_without_noise,
)
from mtexp.metrics.interference import fairness, jain_fairness

EQUAL, ONE_LOW, SPREAD = "equal", "one low", "spread"


def _truth(tenants: int, shape: str) -> np.ndarray:
    """Log NP of each tenant: the lowest is at 0.74 of the highest."""
    shapes = {EQUAL: np.zeros(tenants), ONE_LOW: np.r_[-0.3, np.zeros(tenants - 1)]}
    return shapes.get(shape, np.linspace(-0.3, 0, tenants))


def _ends(found: Evenness) -> tuple[float, float]:
    low, high = np.quantile(found.draws, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("tenants", [2, 3, 5, 8])
@pytest.mark.parametrize("shape", [EQUAL, ONE_LOW, SPREAD])
@pytest.mark.parametrize("noise", [0.016, 0.05, 0.17])
def test_intervals_hold_the_truth(tenants: int, shape: str, noise: float) -> None:
    """At the noise within runs and between runs; the figure is less biased than what was measured."""
    logs, runs, rng = _truth(tenants, shape), 160, np.random.default_rng(tenants)
    truths = {"fairness": fairness(np.exp(logs)), "jain": jain_fairness(np.exp(logs))}
    held, figures, measured = dict.fromkeys(truths, 0), [], []
    for _ in range(runs):
        progress = np.exp(logs + noise * rng.standard_normal(tenants))
        errors = noise * rng.standard_normal((tenants, 250))
        found = {"fairness": fairness_without_noise(progress, errors), "jain": jain_without_noise(progress, errors)}
        for name, truth in truths.items():
            low, high = _ends(found[name])
            held[name] += low <= truth <= high
            assert low <= found[name].value <= high
        figures.append(found["fairness"].value)
        measured.append(fairness(progress))
    assert held["fairness"] / runs >= 0.88
    assert held["jain"] / runs >= 0.88
    bias, before = np.mean(figures) - truths["fairness"], np.mean(measured) - truths["fairness"]
    assert min(0, 0.7 * before) - 0.005 < bias < 0.1


@pytest.mark.parametrize("share_equal", [0.0, 0.5, 1.0])
def test_the_mean_of_many_mixes(share_equal: float) -> None:
    """Of 20 pairs: noise of 12 % makes equal pairs 0.87 on average; the interval holds 1 all the same."""
    equal = np.arange(20) < 20 * share_equal
    logs = [np.array([0.0, 0.0 if same else -0.3]) for same in equal]
    truth, held, runs, rng = float(np.exp(-0.3 * np.mean(~equal))), 0, 60, np.random.default_rng(1)
    for _ in range(runs):
        progress = [np.exp(own + 0.12 * rng.standard_normal(2)) for own in logs]
        errors = [0.12 * rng.standard_normal((2, 200)) for _ in logs]
        found = mean_fairness_without_noise(progress, errors)
        low, high = _ends(found)
        held += low <= truth <= high
        assert low <= found.value <= high
    assert held / runs >= 0.88


def test_what_tenants_have_in_common_takes_nothing_off() -> None:
    """A baseline or a host that errs for all alike changes no ratio of NP."""
    progress = np.array([0.5, 0.6, 0.75])
    alike = np.tile(0.2 * np.random.default_rng(0).standard_normal(300), (3, 1))
    for found in (fairness_without_noise(progress, alike), mean_fairness_without_noise([progress] * 2, [alike] * 2)):
        assert found.value == pytest.approx(2 / 3)
        assert found.draws == pytest.approx(2 / 3)


def test_one_tenant_and_equal_figures_are_even() -> None:
    """Nothing was measured to differ."""
    errors = 0.1 * np.random.default_rng(0).standard_normal((1, 100))
    for found in (fairness_without_noise, jain_without_noise):
        assert found(np.array([0.7]), errors).value == 1
        assert found(np.full(3, 0.7), np.tile(errors, (3, 1))).value == 1
    assert mean_fairness_without_noise([np.array([0.7])], [errors]).value == 1


@pytest.mark.parametrize("tenants", [2, 8])
def test_tenants_that_agree_better_than_noise_are_not_surely_equal(tenants: int) -> None:
    """Noise of 10 % cannot tell 1 from 0.9, however near figures happen to lie: the interval was [1, 1]."""
    rng = np.random.default_rng(0)
    progress = np.exp(np.linspace(0, 1e-3, tenants))
    errors = 0.1 * rng.standard_normal((tenants, 1000))
    ordinary = np.exp(-np.median(np.ptp(errors, axis=0)))
    means = mean_fairness_without_noise([progress] * 3, [0.1 * rng.standard_normal((tenants, 1000)) for _ in range(3)])
    for found in (fairness_without_noise(progress, errors), means, jain_without_noise(progress, errors)):
        low, high = _ends(found)
        assert found.value == high == 1
        assert low < 0.99
    assert _ends(fairness_without_noise(progress, errors))[0] < ordinary
