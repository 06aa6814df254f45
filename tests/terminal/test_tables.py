"""Tables that fit, what is swept, and the estimate before a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtexp.config.swept import label, swept
from mtexp.spec import ArrivalSpec
from mtexp.terminal.estimate import estimate
from mtexp.testing.records import example
from mtexp.text_tables import counted, filled, fitting, plain_table

POINTS = [
    ("mix=pair", "mix.tenants.a.batch_size=1", "arrival.load=0.3", "repetition=0", "measure.iterations=50"),
    ("mix=pair", "mix.tenants.a.batch_size=4", "arrival.load=0.3", "repetition=0", "measure.iterations=50"),
    ("mix=trio", "mix.tenants.a.batch_size=4", "arrival.load=0.6", "repetition=1", "measure.iterations=50"),
]


def test_plain_tables_are_aligned() -> None:
    """Names to the left, numbers to the right, no trailing space."""
    rows = [{"mix": "pair", "STP": "1.5", "verdict": "VALID"}, {"mix": "bert_base*16", "STP": "10.25", "verdict": "-"}]
    assert plain_table(rows, {"STP"}).splitlines() == [
        "mix             STP  verdict",
        "pair            1.5  VALID",
        "bert_base*16  10.25  -",
    ]


def test_what_is_swept() -> None:
    """Only keys that differ, under short names."""
    assert swept(POINTS) == [
        {"mix": "pair", "a.batch_size": "1", "load": "0.3", "repetition": "0"},
        {"mix": "pair", "a.batch_size": "4", "load": "0.3", "repetition": "0"},
        {"mix": "trio", "a.batch_size": "4", "load": "0.6", "repetition": "1"},
    ]
    assert label(swept(POINTS)[2]) == "mix=trio a.batch_size=4 load=0.6 repetition=1"
    assert swept(POINTS[:1]) == [{}]


def test_keys_with_the_same_ending_keep_their_whole_names() -> None:
    """arrival.load and capacity.load would both be ``load``."""
    (first, _) = swept([("arrival.load=1", "capacity.load=1"), ("arrival.load=2", "capacity.load=2")])
    assert list(first) == ["arrival.load", "capacity.load"]


def test_a_key_that_some_points_lack_is_a_difference() -> None:
    """Points of an added key beside points without it."""
    assert swept([("+x=1",), ()]) == [{"x": "1"}, {}]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits(width: int) -> None:
    """Columns go until the rest fits; the first and the figure that the run is for stay."""
    row = {
        "mix": "bert_base+llama_3_2_1b",
        "a.batch_size": "4",
        "precision": "fp16",
        "mps_settings": "disabled",
        "tenants": "2",
        "STP": "1.23",
        "ANTT": "1.75",
        "fairness": "0.50",
        "verdict": "VALID",
    }
    kept = fitting([row], width)
    assert max(map(len, plain_table(kept, ()).splitlines())) <= width
    assert {"mix", "a.batch_size", "STP", "verdict"} <= kept[0].keys()
    assert kept[0]["mix"] == row["mix"]
    assert (kept[0] == row) == (width == 120)


def test_a_text_that_fits_nowhere_is_cut_at_its_end() -> None:
    """A mix of many models in a narrow terminal."""
    (kept,) = fitting([{"mix": "bert_base+" * 20, "STP": "1.2"}], 40)
    assert kept["mix"].endswith("…")
    assert len(kept["mix"]) + len(kept["STP"]) + 4 <= 40


def test_two_long_texts_are_cut_to_the_same_length() -> None:
    """Not one to a stump that is the same in every row."""
    (kept,) = fitting([{"mix": "bert_base batch 1 and 2", "sharing": "CPU (disabled), crossover", "stp": "1.2"}], 45)
    assert len(kept["mix"]) - len(kept["sharing"]) in (-1, 0, 1)


def test_columns_without_a_value_are_left_out() -> None:
    """Dashes only, in every row."""
    assert filled([{"a": "-", "b": "-"}, {"a": "1", "b": "-"}]) == [{"a": "-"}, {"a": "1"}]


def test_one_run_is_singular() -> None:
    """1 run, 2 runs, 0 runs."""
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert counted(2, "capacity search") == "2 capacity searches"


def test_an_estimate_grows_with_runs_and_measured_time() -> None:
    """Runs, baselines that may have to be measured, time, disk."""
    spec = example()[0].run_spec
    text = estimate([spec])
    assert text.startswith("1 run")
    longer = replace(spec, measure=replace(spec.measure, min_time_s=600.0))
    assert "11 min" in estimate([longer, spec]) or "10 min" in estimate([longer, spec])
    assert estimate([spec] * 56).startswith("56 runs")


def test_an_estimate_says_what_baselines_at_the_same_arrivals_cost() -> None:
    """One for each tenant in open loop, as long as its requests take to arrive, beside that in closed loop."""
    spec = example()[0].run_spec
    kept = replace(spec.measure, design="sustained", iterations=600)
    slow, closed = (replace(spec.tenants[0], id=name, arrival=ArrivalSpec()) for name in "ab")
    slow = replace(slow, arrival=ArrivalSpec(kind="poisson", rate_rps=1.0))
    text = estimate([replace(spec, measure=kept, tenants=(slow, closed))])
    assert text.startswith("1 run and up to 2 baselines (1 at the arrivals of a tenant), about 20 min")
    assert "arrivals" not in estimate([replace(spec, measure=kept, tenants=(closed, closed))])
