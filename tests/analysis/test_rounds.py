"""Crossover runs in an analysis: their own slowdowns, put together over runs, and never with those of other designs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.data import load
from analysis.export_files import write_export
from analysis.plots.rounds import rounds
from analysis.pooling import FEW_DRAWS, Results, _designs_apart, impossible, pool
from analysis.rounds import in_rounds, measured_in_rounds
from mtexp.metrics.crossover_summary import BlockTelemetry, real_window, summarise_crossover
from mtexp.metrics.repeats import Estimate, NormalDraws
from mtexp.metrics.summary import Measured
from mtexp.records.record import save
from mtexp.testing.records import example
from tests.metrics.test_crossover_summary import run


def normals(draws: int = 20_000) -> NormalDraws:
    return NormalDraws(draws, np.random.default_rng(1))


def row(slowdown: float, half_log: float, **changes: object) -> dict[str, object]:
    ends = {"": 1.0, "_ci_low": np.exp(-half_log), "_ci_high": np.exp(half_log)}
    figures = {f"slowdown{end}": slowdown * factor for end, factor in ends.items()}
    figures |= {f"normalized_progress{end}": factor / slowdown for end, factor in ends.items()}
    return {"record_id": "r", "tenant": "a", "design": "crossover", **figures, **changes}


def test_one_run_keeps_its_own_interval() -> None:
    """What its rounds say, of slowdown and of progress, which err together."""
    known = measured_in_rounds(pd.DataFrame([row(1.5, 0.04)]))
    found = in_rounds([known["r", "a"]], normals())
    assert found is not None
    figures = found.figures()
    assert figures["slowdown"].value == pytest.approx(1.5)
    interval = figures["slowdown"].interval
    assert (interval.low, interval.high) == pytest.approx((1.5 * np.exp(-0.04), 1.5 * np.exp(0.04)), rel=0.005)
    assert found.error("throughput") == pytest.approx(-found.error("mean"))


def test_several_runs_that_agree_are_better_known_and_those_that_do_not_are_not() -> None:
    """Four runs halve the interval; where they differ by more than their rounds say, that counts."""
    alike = in_rounds([{k: (np.log(1.5), 0.02) for k in ("slowdown", "normalized_progress")}] * 4, normals())
    apart = [{k: (np.log(v), 0.02) for k in ("slowdown", "normalized_progress")} for v in (1.2, 1.5, 1.8, 1.5)]
    differing = in_rounds(apart, normals())
    assert alike is not None
    assert differing is not None
    assert alike.error("mean").std() == pytest.approx(0.01, rel=0.05)
    assert differing.error("mean").std() > 0.06


def test_a_run_of_another_design_or_without_interval_has_none() -> None:
    """Old records have no design; a run of one round has no interval."""
    rows = [row(1.5, 0.04, design=None), row(1.5, 0.04, record_id="s", slowdown_ci_low=np.nan)]
    rows += [row(1.5, 0.04, record_id="t", design=pd.NA)]
    assert measured_in_rounds(pd.DataFrame(rows)) == {}
    assert in_rounds([None], normals()) is None
    assert in_rounds([{"slowdown": (0.1, 0.1), "normalized_progress": (0.1, 0.1)}, None], normals()) is None


def test_stp_keeps_the_interval_of_its_run(in_turns: Path) -> None:
    """It has what tenants of a round have in common; two tenants that err independently would have another."""
    data = load(records=in_turns)
    runs = data.runs.assign(stp_ci_low=data.runs["stp"] * 0.9, stp_ci_high=data.runs["stp"] * 1.1)
    (point,) = pool(replace(data, runs=runs)).points.to_dict("records")
    assert point["stp"] == pytest.approx(runs["stp"].item())
    assert (point["stp_ci_high"] - point["stp_ci_low"]) / (2 * point["stp"]) == pytest.approx(0.1, rel=0.05)


def test_designs_are_points_of_their_own_where_there_are_two() -> None:
    """One design needs no name; old runs have none and are not crossover."""
    names = pd.Series(["MPS", "MPS"])
    assert _designs_apart(pd.DataFrame({"design": ["crossover", None]}), names).tolist() == ["MPS, crossover", "MPS"]
    assert _designs_apart(pd.DataFrame({"design": ["crossover"] * 2}), names).tolist() == ["MPS", "MPS"]
    assert _designs_apart(pd.DataFrame({"mix": ["pair", "pair"]}), names).tolist() == ["MPS", "MPS"]
    lone = pd.DataFrame({"design": ["crossover", "sustained"], "num_tenants": [2, 1]})
    assert _designs_apart(lone, names).tolist() == ["MPS", "MPS"]


@pytest.fixture(scope="module")
def in_turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run in rounds: 2 and 4 ms alone, 3 and 8 together."""
    folder = tmp_path_factory.mktemp("in-turns")
    samples, blocks = run({"t0": 2.0, "t1": 4.0}, {"t0": 3.0, "t1": 8.0}, noise=0.05)
    record, _ = example(["bert_base", "llama_3_2_1b"], mix="pair")
    figures = summarise_crossover(
        {name: Measured(samples=own) for name, own in samples.items()}, blocks, BlockTelemetry()
    )
    spec = {**record.spec, "measure": {**record.spec["measure"], "design": "crossover"}}
    window = real_window(samples)
    assert window is not None
    save(
        replace(
            record,
            spec=spec,
            blocks=tuple(blocks),
            window={"t0_ns": window.t0_ns, "t1_ns": window.t1_ns},
            metrics=figures.metrics,
            tenants=tuple(replace(tenant, metrics=figures.tenants[tenant.id]) for tenant in record.tenants),
        ),
        folder,
        samples,
    )
    return folder


def test_rounds_are_drawn_from_records_and_from_an_export_alike(in_turns: Path, tmp_path: Path) -> None:
    """Slowdown by round and the alone blocks beside it: an export keeps what they are made of."""
    data = load(records=in_turns)
    write_export(data, tmp_path)
    drawn = []
    for found in (data, load(records=tmp_path)):
        figure = rounds(pool(found, draws=100))
        assert figure is not None
        by_name = {(trace.name, trace.xaxis): np.asarray(trace.y, dtype=float) for trace in figure.data}
        assert len(by_name) == 4
        assert all(len(values) == 12 for values in by_name.values())
        means = sorted(float(np.exp(np.log(v).mean())) for (_, axis), v in by_name.items() if axis == "x")
        assert means == pytest.approx([1.5, 2.0], rel=0.03)
        drawn.append(by_name)
    for key, values in drawn[0].items():
        assert drawn[1][key] == pytest.approx(values, abs=0.002)


def test_few_draws_call_no_point_impossible() -> None:
    """A tenant measured 1 % faster than alone, within its interval: advise and predict left such points out."""
    rows = {"point": [0], "num_tenants": [2], "closed": [True]}
    tenants = pd.DataFrame({"point": [0], "position": [0], "label": ["a"]})
    for count in (1, FEW_DRAWS):
        figure = Estimate(0.99, np.random.default_rng(0).normal(0, 0.05, count))
        assert impossible(pd.DataFrame(rows), tenants, {(0, 0, "slowdown"): figure}) == {}
    certain = Estimate(0.5, np.random.default_rng(0).normal(0, 0.05, FEW_DRAWS))
    assert impossible(pd.DataFrame(rows), tenants, {(0, 0, "slowdown"): certain})


def test_an_export_of_a_run_in_rounds_has_the_same_slowdowns(in_turns: Path, tmp_path: Path) -> None:
    """Its alone requests are kept beside the shared ones, and enter no figure of these."""
    data = load(records=in_turns)
    write_export(data, tmp_path)
    again = load(records=tmp_path)
    assert len(again.iterations) == len(data.iterations)
    assert (again.counted()["phase"] == "alone").sum() == (data.counted()["phase"] == "alone").sum() > 0
    first, second = pool(data, draws=100), pool(again, draws=100)
    assert second.tenants["slowdown"].tolist() == pytest.approx(first.tenants["slowdown"].tolist(), rel=1e-3)


def test_runs_without_rounds_have_no_such_figure(results: Results) -> None:
    """The figure is left out of the report."""
    assert rounds(results) is None
