"""Searches for a capacity, read back from their runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.capacity import capacities, probes
from analysis.data import from_contents
from analysis.dataset import Dataset
from analysis.plots.workloads import capacity
from analysis.pooling import Results
from analysis.sentences import of_capacity
from analysis.summary import _load_advice
from mtexp.records.record import RunRecord
from mtexp.spec import SearchSpec, to_json
from mtexp.testing.records import example


def probe(name: str, value: float, attained: float, *, seed: int, iterations: int = 700) -> RunRecord:
    record, _ = example(("bert_base", "llama"), mix="pair", seed=seed)
    spec = replace(record.run_spec, search=SearchSpec(name=name, value=value, attainment_pct=99.0))
    metrics = {"slo_ms": 20.0, "slo_attainment_pct": attained, "goodput_rps": value * 100, "throughput_rps": 100.0}
    metrics["iterations_in_window"] = iterations
    first = replace(record.tenants[0], metrics=metrics)
    return replace(record, spec=to_json(spec), tenants=(first, *record.tenants[1:]))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Two searches: one with an answer, one whose lower bound missed."""
    tried = [("one", 1.0, 80.0), ("one", 0.2, 100.0), ("one", 0.5, 99.4), ("two", 1.0, 20.0), ("two", 0.1, 90.0)]
    records = [probe(name, value, attained, seed=i) for i, (name, value, attained) in enumerate(tried)]
    records.append(probe("one", 0.7, 100.0, seed=9, iterations=20))
    return from_contents(records, {r.record_id: tmp_path for r in records}, tmp_path)


def test_the_table_says_what_was_kept_and_what_missed(data: Dataset) -> None:
    """A row a tenant at the highest value kept; a search that kept nothing says so by an absent value."""
    frame = capacities(data)
    one = frame[frame["search"] == "one"]
    assert one["tenant"].tolist() == ["t0", "t1"]
    assert set(one["kept"]) == {0.5}
    assert set(one["missed"]) == {1.0}
    assert one["goodput_rps"].tolist()[0] == 50.0
    (two,) = frame[frame["search"] == "two"].to_dict("records")
    assert two["missed"] == 0.1
    assert two["kept"] != two["kept"]


def test_a_probe_with_too_few_requests_is_neither(data: Dataset) -> None:
    """As when it was measured: it says nothing, and why."""
    (few,) = probes(data).query("value == 0.7").to_dict("records")
    assert few["kept"] is None
    assert "raise measure.iterations" in few["why"]


def test_the_figure_draws_searches_with_an_answer(tmp_path: Path, data: Dataset) -> None:
    """From kept to missed, of two or more; one is a sentence; runs that are no probes have neither."""
    results = Results(data, pd.DataFrame(), pd.DataFrame())
    assert capacity(results) is None
    said = of_capacity(results)
    assert said.startswith("pair under ")
    assert "keeps every service level up to 0.5 of what each serves alone, and misses one at 1." in said
    tried = [("one", 0.5, 99.4), ("one", 1.0, 80.0), ("three", 0.4, 100.0)]
    records = [probe(name, value, attained, seed=i) for i, (name, value, attained) in enumerate(tried)]
    two = from_contents(records, {r.record_id: tmp_path for r in records}, tmp_path)
    drawn = capacity(Results(two, pd.DataFrame(), pd.DataFrame()))
    assert drawn is not None
    assert (drawn.data[0].x[0], drawn.data[0].error_x.array[0]) == (0.5, 0.5)
    record, _ = example()
    plain = from_contents([record], {record.record_id: Path()}, Path())
    assert capacities(plain).empty
    assert capacity(Results(plain, pd.DataFrame(), pd.DataFrame())) is None
    assert of_capacity(Results(plain, pd.DataFrame(), pd.DataFrame())) == ""


def test_advice_about_a_load_says_what_was_too_much_and_the_level() -> None:
    """A rate that was served is not the most that was asked for where a higher one was not."""
    common = {"model": "bert_base", "neighbours": "alone", "sharing": "MPS", "latency_p99_ms": 89.1, "slo_ms": 60.0}
    rates = pd.DataFrame([common | {"offered_rps": rate, "saturated": rate > 300} for rate in (136, 290, 1346)])
    assert "keeps up with 290 requests/s, and not with 1346: its p99 is 89.1 ms, its level 60 ms" in _load_advice(rates)
    assert "290 requests/s, the most that was asked of it" in _load_advice(rates[:2])


def test_a_probe_without_any_level_says_nothing(tmp_path: Path) -> None:
    """A level that is a multiple of a baseline that failed: nothing was kept, though nothing missed."""
    record = probe("one", 1.0, 100.0, seed=0)
    first = replace(record.tenants[0], metrics={"throughput_rps": 100.0, "iterations_in_window": 700.0})
    record = replace(record, tenants=(first, *record.tenants[1:]))
    data = from_contents([record], {record.record_id: tmp_path}, tmp_path)
    (found,) = probes(data).to_dict("records")
    assert found["kept"] is None
    assert "no tenant has a service level" in found["why"]
