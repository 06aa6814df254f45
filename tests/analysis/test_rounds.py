"""Crossover runs in an analysis: their own slowdowns, put together over runs, and never with those of other designs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.pooling import _designs_apart
from analysis.rounds import in_rounds, measured_in_rounds
from mtexp.metrics.repeats import Throws


def throws(draws: int = 20_000) -> Throws:
    return Throws(draws, np.random.default_rng(1))


def row(slowdown: float, half_log: float, **changes: object) -> dict[str, object]:
    ends = {"": 1.0, "_ci_low": np.exp(-half_log), "_ci_high": np.exp(half_log)}
    figures = {f"slowdown{end}": slowdown * factor for end, factor in ends.items()}
    figures |= {f"normalized_progress{end}": factor / slowdown for end, factor in ends.items()}
    return {"record_id": "r", "tenant": "a", "design": "crossover", **figures, **changes}


def test_one_run_keeps_its_own_interval() -> None:
    """What its rounds say, of slowdown and of progress, which err together."""
    known = measured_in_rounds(pd.DataFrame([row(1.5, 0.04)]))
    found = in_rounds([known["r", "a"]], throws())
    assert found is not None
    figures = found.figures()
    assert figures["slowdown"].value == pytest.approx(1.5)
    interval = figures["slowdown"].interval
    assert (interval.low, interval.high) == pytest.approx((1.5 * np.exp(-0.04), 1.5 * np.exp(0.04)), rel=0.005)
    assert found.error("throughput") == pytest.approx(-found.error("mean"))


def test_several_runs_that_agree_are_better_known_and_those_that_do_not_are_not() -> None:
    """Four runs halve the interval; where they differ by more than their rounds say, that counts."""
    alike = in_rounds([{k: (np.log(1.5), 0.02) for k in ("slowdown", "normalized_progress")}] * 4, throws())
    apart = [{k: (np.log(v), 0.02) for k in ("slowdown", "normalized_progress")} for v in (1.2, 1.5, 1.8, 1.5)]
    differing = in_rounds(apart, throws())
    assert alike is not None
    assert differing is not None
    assert alike.error("mean").std() == pytest.approx(0.01, rel=0.05)
    assert differing.error("mean").std() > 0.06


def test_a_run_of_another_design_or_without_interval_has_none() -> None:
    """Old records have no design; a run of one round has no interval."""
    rows = [row(1.5, 0.04, design=None), row(1.5, 0.04, record_id="s", slowdown_ci_low=np.nan)]
    assert measured_in_rounds(pd.DataFrame(rows)) == {}
    assert in_rounds([None], throws()) is None
    assert in_rounds([{"slowdown": (0.1, 0.1), "normalized_progress": (0.1, 0.1)}, None], throws()) is None


def test_designs_are_points_of_their_own_where_there_are_two() -> None:
    """One design needs no name; old runs have none and are not crossover."""
    names = pd.Series(["MPS", "MPS"])
    assert _designs_apart(pd.DataFrame({"design": ["crossover", None]}), names).tolist() == ["MPS, crossover", "MPS"]
    assert _designs_apart(pd.DataFrame({"design": ["crossover"] * 2}), names).tolist() == ["MPS", "MPS"]
    assert _designs_apart(pd.DataFrame({"mix": ["pair", "pair"]}), names).tolist() == ["MPS", "MPS"]
