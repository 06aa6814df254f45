"""What a figure shows: colours that mean one model, axes that hold every point and bar, names where a bar is absent."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from analysis_study import ALONE_MS, Study, figure_of

from analysis import markdown, plots, report, tables
from analysis.costs import energy_against_turns
from analysis.data import load
from analysis.findings import findings, paragraph
from analysis.plots import sharing, theme
from analysis.pooling import Results, pool
from analysis.sentences import SENTENCES
from analysis.summary import _best_and_worst, summary
from mtexp.colours import model_colour, shades

MODELS = ("bert_base", "deberta_v3_base", "distilgpt2")


def pooled(folder: Path) -> Results:
    return pool(load(records=folder), draws=200)


def figure(results: Results, name: str) -> go.Figure:
    drawn = figure_of(results, name)
    assert drawn is not None
    return drawn


def inside(axis: go.layout.XAxis | go.layout.YAxis, *values: float) -> bool:
    """Whether a linear or logarithmic axis with a range holds all of ``values``."""
    ends = [10**end if axis.type == "log" else end for end in axis.range]
    return all(ends[0] <= value <= ends[1] for value in values)


def test_every_shipped_model_differs_and_shades_of_one_differ() -> None:
    """No two models look alike, nor two tenants of one; the first has the model's own colour."""
    shipped = [path.stem for path in Path("conf/models").glob("*.yaml") if not path.stem.startswith("stress_")]
    assert len({model_colour(name) for name in shipped}) == len(shipped)
    for model in shipped:
        assert len(set(shades([model] * 3))) == 3
        assert shades(["other", model, model])[1] == model_colour(model)


def test_sharing_modes_have_colours_of_their_own() -> None:
    """No two modes look alike, in hue or in shape, nor like a percentage that has no look of its own."""
    modes = (
        *("time slicing", "MPS", "MPS equal share", "MPS 50 %", "MPS 49 %", "MPS 25 %", "MPS 10 %", "MPS 61 %"),
        *("streams", "green contexts", "MIG"),
    )
    looks = [theme.sharing_style(mode) for mode in modes]
    assert len({colour for colour, _, _ in looks}) == len(modes)
    assert len({symbol for _, symbol, _ in looks}) == len(modes)


def test_latency_against_load_is_a_panel_a_tenant_and_a_colour_a_mode(tmp_path: Path) -> None:
    """What is measured beside what is the title of a panel; the level is a line in it."""
    study = Study(tmp_path)
    for mps in ("disabled", "default"):
        for load_share in (0.2, 0.4):
            study.run(["bert_base", "llama_3_2_1b"], mps, load=load_share, slo_ms=20)
    found = pooled(tmp_path)
    drawn = figure(found, "latency-load")
    titles = {note.text for note in drawn.layout.annotations}
    assert {"bert_base<br>beside llama_3_2_1b", "llama_3_2_1b<br>beside bert_base", "level 20 ms"} <= titles
    colours = {trace.name.partition(",")[0]: trace.line.color for trace in drawn.data}
    assert colours == {mode: theme.sharing_style(mode)[0] for mode in ("time slicing", "MPS")}
    rates = found.tenants.groupby("model")["offered_rps"]
    late = found.tenants.assign(saturated=(found.tenants["offered_rps"] > rates.transform("mean")).astype(float))
    names = [trace.name for trace in figure(replace(found, tenants=late), "latency-load").data]
    for mode in ("time slicing", "MPS"):
        assert names.count(f"{mode}, cannot keep up") == 2, "one a panel"


def test_latency_against_load_has_the_tenant_alone_at_the_same_arrivals(tmp_path: Path) -> None:
    """Where that was measured, beside every neighbour, in a colour that no sharing mode has."""
    study = Study(tmp_path, iterations=30)
    for load_share in (0.1, 0.2):
        study.run(["bert_base", "distilgpt2"], load=load_share)
    found = pooled(tmp_path)
    alone = found.tenants.assign(alone_latency_p50_ms=found.tenants["latency_p50_ms"] / 2)
    drawn = figure(replace(found, tenants=alone), "latency-load")
    (line,) = [trace for trace in drawn.data if trace.name == "alone at the same arrivals, p50" and trace.showlegend]
    assert line.line.color == theme.INK
    together = next(trace for trace in drawn.data if trace.name == "time slicing, p50" and trace.showlegend)
    assert list(line.y) == [latency_ms / 2 for latency_ms in together.y]


def test_what_was_swept_has_an_axis(tmp_path: Path) -> None:
    """Batch size on an axis with each value asked for; a study without a sweep of it has no such figure."""
    study = Study(tmp_path, iterations=40)
    study.run(["bert_base", "distilgpt2"])
    results = pooled(tmp_path)
    assert figure_of(results, "settings") is None
    other = results.tenants.assign(point=1, batch_size=32, latency_mean_ms=2 * results.tenants["latency_mean_ms"])
    points = pd.concat([results.points, results.points.assign(point=1)], ignore_index=True)
    both = replace(results, points=points, tenants=pd.concat([results.tenants, other], ignore_index=True))
    drawn = figure(both, "settings")
    assert {axis.title.text for axis in drawn.select_xaxes()} == {"batch size"}
    assert {tuple(axis.ticktext) for axis in drawn.select_xaxes()} == {("8", "32")}


def test_one_row_is_a_sentence_and_no_figure(tmp_path: Path) -> None:
    """One model beside stressors, or one pair under one mode, draws no heat map and no rows."""
    study = Study(tmp_path, iterations=40)
    study.run(["bert_base", "stress_sm"])
    study.run(["bert_base", "distilgpt2"])
    results = pooled(tmp_path)
    for name in ("sensitivity", "stp-by-mix", "fairness", "energy"):
        assert figure_of(results, name) is None


def test_one_good_pair_gets_an_answer(tmp_path: Path) -> None:
    """STP and each tenant's slowdown, with intervals, in the advice, the tiles and the finding."""
    Study(tmp_path, iterations=60).run(["bert_base", "distilgpt2"], "default", repetitions=3)
    results = pooled(tmp_path)
    first = summary(results)
    assert re.search(r"bert_base\+distilgpt2 under MPS.*STP 1\.5\d \[.*of 2", first.advice)
    assert [tile.title for tile in first.tiles[1:3]] == ["bert_base pays", "distilgpt2 pays"]
    said = findings(results)[0].text
    assert re.search(r"bert_base 1\.3\d? \[.*distilgpt2 1\.3", said) or "slower than alone" in said


def test_pairs_that_nothing_tells_apart_have_no_worst(tmp_path: Path) -> None:
    """The best by the lower end of its interval can have the lowest upper end too: it is not the worst as well."""
    study = Study(tmp_path, iterations=60)
    for other in ("distilgpt2", "deberta_v3_base"):
        study.run(["bert_base", other])
    both = pooled(tmp_path)
    found = tables.combinations(both)
    found["stp_ci_high"] = [1.1, 1.2]
    best, worst = _best_and_worst(both, found)
    assert best.value == found["mix"].iloc[0].replace("+", " + ")
    assert worst.value == "not clear"
    found["stp_ci_high"] = [1.2, 1.1]
    assert _best_and_worst(both, found)[1].value == found["mix"].iloc[1].replace("+", " + ")


def test_a_figure_that_is_cut_says_so(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fairness of the best mixes only: the axis says of how many."""
    monkeypatch.setattr(sharing, "_MOST_ROWS", 3)
    title = figure(results, "fairness").layout.xaxis.title.text
    assert re.search(r"the best 3 of \d+ mixes", title)


def test_energy_is_compared_with_taking_turns(tmp_path: Path) -> None:
    """The ratio is that of the mix to the same requests served alone, each in its share."""
    study = Study(tmp_path, iterations=60)
    for model in ("bert_base", "distilgpt2"):
        study.run([model])
    study.run(["bert_base", "distilgpt2"], "default")
    results = pooled(tmp_path)
    points = results.points.set_index("mix")["energy_j_per_request"]
    rates = results.tenants[results.tenants["point"] == 2].set_index("label")["throughput_rps"]
    turns = (rates["bert_base"] * points["bert_base"] + rates["distilgpt2"] * points["distilgpt2"]) / rates.sum()
    (row,) = energy_against_turns(results).to_dict("records")
    assert row["energy_ratio"] == pytest.approx(points["bert_base+distilgpt2"] / turns, rel=1e-6)


def test_tenants_keep_their_names_where_a_percentile_is_not_bounded(tmp_path: Path) -> None:
    """A mix with too few requests for the tail has its tenants' names in both rows, and says why there is no bar."""
    study = Study(tmp_path, iterations=200)
    study.run(MODELS, "default", mix="long")
    study.run([*MODELS, "llama_3_2_1b"], "default", mix="long too")
    study.iterations = 20
    study.run([*MODELS, "mistral_7b"], "default", mix="short")
    results = pooled(tmp_path)
    known = tables.tenants(results)
    known = known[known["mix"] == "short"]
    drawn = figure(results, "slowdown-by-tenant")
    titles = [note.text for note in drawn.layout.annotations if note.text in ("long", "long too", "short")]
    (axis,) = [axis for axis in drawn.select_xaxes(col=2) if axis.title.text]
    tail = axis.title.text.removeprefix("slowdown of ")
    unbounded = set(known.loc[known[f"slowdown_{tail}"].isna(), "label"])
    assert unbounded, "the study has none: it tests nothing"
    for column in (1, 2):
        (axis,) = drawn.select_yaxes(row=1 + titles.index("short"), col=column)
        assert set(axis.categoryarray) == set(known["label"])
        assert axis.type == "category"
    said = {note.y for note in drawn.layout.annotations if note.text == "not bounded"}
    assert said == unbounded


def test_white_is_no_slowdown_and_every_tick_is_one(results: Results) -> None:
    """The colour bar of a matrix counts factors: its ticks are slowdowns, all above 0, with white at 1."""
    for name in ("interference-matrix", "sensitivity"):
        axis = figure(results, name).layout.coloraxis
        (white,) = [at for at, colour in axis.colorscale if colour.upper() == "#FFFFFF"]
        assert axis.cmin + white * (axis.cmax - axis.cmin) == pytest.approx(0)
        labels = [float(text) for text in axis.colorbar.ticktext]
        assert np.allclose(2 ** np.array(axis.colorbar.tickvals), labels)
        assert 1 in labels
        assert len(labels) >= 3
        assert all(axis.cmin <= at <= axis.cmax for at in axis.colorbar.tickvals)


def test_modes_with_too_few_pairs_are_named(results: Results) -> None:
    """They have no panel, and the figure says which they are."""
    drawn = figure(results, "interference-matrix")
    texts = " ".join(note.text for note in drawn.layout.annotations)
    assert {trace.xaxis for trace in drawn.data} == {"x", "x2"}
    assert drawn.layout.margin.b > 100, "slanted names, the title and the note are inside"
    assert "Too few pairs for a panel: MPS 50 % (2), MPS 25 % (2)." in texts


def test_points_bars_and_names_are_inside(results: Results) -> None:
    """Axes with a range hold every point with its interval; what names a point stands at it or in a corner."""
    event = figure(results, "event-timer")
    frame = tables.event_timer(results)
    ends = theme.reach(frame, "slowdown"), theme.reach(frame, "timer_slowdown")
    for axes, reach in ((event.select_xaxes(), ends[0]), (event.select_yaxes(), ends[1])):
        for axis in axes:
            assert axis.type == "log"
            assert inside(axis, *reach)
    combinations = figure(results, "combinations")
    axis = combinations.layout.yaxis
    best = tables.combinations(results).query("frontier")
    for note in combinations.layout.annotations:
        assert note.yref == "paper" or inside(axis, 10**note.y) or note.text == "taking turns"
    corner = combinations.layout.annotations[-1]
    assert (corner.x, corner.y, corner.xref, corner.yref) == (0, 0, "paper", "paper")
    assert [line.split("</b> ")[1] for line in corner.text.split("<br>")] == [
        f"{row.mix}, {row.sharing}" for row in best.sort_values("stp").itertuples()
    ]
    assert inside(combinations.layout.xaxis, *theme.reach(tables.combinations(results)[["stp"]], "stp"))


def test_what_has_no_interval_gets_no_bar() -> None:
    """Plotly takes null for a bar of no length, which says that there is no doubt at all; a text draws none."""
    frame = pd.DataFrame({"stp": [1.0, 2.0], "stp_ci_low": [0.5, np.nan], "stp_ci_high": [2.0, np.nan]})
    bars = theme.error_bars(frame, "stp")
    for name, length in (("array", 1.0), ("arrayminus", 0.5)):
        assert bars[name][0] == length
        assert isinstance(bars[name][1], str)


def test_curves_of_one_model_doing_two_things_have_panels_of_their_own(tmp_path: Path) -> None:
    """Two curves of one sharing mode in one panel would be the same curve to a reader."""
    study = Study(tmp_path, iterations=20)
    for workload in ("forward", "decode"):
        for count in (2, 3):
            study.run(["llama_3_2_1b"] * count, workload=workload)
    study.run(["bert_base"], "default")
    drawn = figure(pooled(tmp_path), "scaling")
    panels = [(trace.name, trace.xaxis) for trace in drawn.data]
    assert len(panels) == len(set(panels)) == 6
    titles = [note.text for note in drawn.layout.annotations if note.text]
    assert titles == ["llama_3_2_1b", "llama_3_2_1b decode"]


def test_tenants_of_one_model_are_told_apart_over_time(tmp_path: Path) -> None:
    """Each has a shade of its own, the same in every panel."""
    study = Study(tmp_path, iterations=20)
    for mps in ("disabled", "default"):
        study.run(["distilgpt2", "distilgpt2", "bert_base"], mps)
    drawn = figure(pooled(tmp_path), "latency-over-time")
    colours = {trace.name: {own.line.color for own in drawn.data if own.name == trace.name} for trace in drawn.data}
    assert len(colours) == 3
    assert all(len(own) == 1 for own in colours.values())
    assert len(set.union(*colours.values())) == 3


def test_telemetry_counts_from_the_window(tmp_path: Path) -> None:
    """Zero is where the window begins, in every panel, and it is shaded; a run that lost its clock is not drawn."""
    study = Study(tmp_path, iterations=40)
    study.run(["bert_base", "distilgpt2"])
    results = pooled(tmp_path)
    drawn = figure(results, "telemetry")
    own = results.data.iterations["record_id"] == results.points["records"].iloc[0][0]
    samples = results.data.iterations[own].groupby("tenant", observed=True)
    t0_ns, t1_ns = samples["start_ns"].min().max(), samples["end_ns"].max().min()
    times_ns = results.data.telemetry["monotonic_ns"].to_numpy()
    for trace in drawn.data:
        assert np.allclose(trace.x, (times_ns - t0_ns) / 1e9)
    ranges = {axis.range for axis in drawn.select_xaxes()}
    assert len(ranges) == 1
    shaded = [(shape.x0, shape.x1) for shape in drawn.layout.shapes]
    assert shaded == [pytest.approx((0, (t1_ns - t0_ns) / 1e9))] * len(drawn.data)
    results.data.telemetry["monotonic_ns"] += 10**12
    assert figure_of(results, "telemetry") is None


def test_shares_need_two_percentages(tmp_path: Path) -> None:
    """One percentage shows no course; equal shares of two tenants are 50 % as well, and say so."""
    study = Study(tmp_path, iterations=20)
    study.run(["bert_base", "distilgpt2"], "half")
    assert figure_of(pooled(tmp_path), "shares") is None
    study.run(["bert_base", "distilgpt2"], "quarter")
    assert len(set(figure(pooled(tmp_path), "shares").data[0].y)) == 2


def test_captions_are_true_of_a_page_without_a_pointer() -> None:
    """They stand below static pictures too."""
    assert not [own.name for own in plots.FIGURES if "pointer" in own.caption]


def test_slowed_most_is_the_most_of_the_page(results: Results) -> None:
    """Pairs count as well, though the figure shows larger mixes where there are such."""
    said = SENTENCES["slowdown-by-tenant"](results)
    found = tables.tenants(results)
    points = results.points[results.points["closed"] & (results.points["num_tenants"] > 1)]
    plain = points[["stressor" not in roles for roles in points["roles"]]]["point"]
    of_models = found[found["point"].isin(plain)].dropna(subset="slowdown")
    assert said.startswith(f"Slowed most of all {len(of_models)} tenants: ")
    assert re.search(r"under \w+(?: \w+)?, ([\d.]+)", said)[1] == f"{of_models['slowdown'].max():.2f}"  # type: ignore[index]


def test_pairs_that_slow_a_tenant_most_are_drawn(tmp_path: Path) -> None:
    """Of seven pairs the figure has room for six: the one that slows nobody much is left out."""
    study = Study(tmp_path, iterations=20)
    mixes = [["bert_base", other] for other in ALONE_MS if other[:6] not in ("bert_b", "stress")]
    for models in [
        *mixes,
        ["distilgpt2", "llama_3_2_1b"],
        ["distilgpt2", "mistral_7b"],
        ["llama_3_2_1b", "mistral_7b"],
    ]:
        study.run(models)
    results = pooled(tmp_path)
    worst = tables.tenants(results).groupby("mix", observed=True)["slowdown"].max()
    shown = {note.text for note in figure(results, "slowdown-by-tenant").layout.annotations} & set(worst.index)
    assert shown == set(worst.sort_values().index[-6:])


def test_a_baseline_that_did_not_repeat_puts_no_mix_first(tmp_path: Path) -> None:
    """A pair with more STP than tenants, against baselines far apart, is not the best: it is said, and drawn open."""
    study = Study(tmp_path, iterations=60)
    study.run(["bert_base"], repetitions=4)
    study.spread = 0.5
    study.run(["distilgpt2"], repetitions=4)
    study.spread = 0.01
    factors = {"distilgpt2": 0.6, "bert_base": 1.1}
    study._latency_ms = lambda spec, specs, mps: factors[spec.model.name] * ALONE_MS[spec.model.name]  # type: ignore[method-assign]
    for mps in ("default", "half"):
        for model in factors:
            study.run([model, model], mps, repetitions=3)
    results = pooled(tmp_path)
    frame = tables.combinations(results)
    above = frame[frame["mix"] == "distilgpt2+distilgpt2"]
    assert (above["stp"] > frame["stp"].iloc[0]).all()
    assert frame["mix"].iloc[0] == "bert_base+bert_base"
    assert frame.loc[frame["above_ideal"], "mix"].tolist() == above["mix"].tolist()
    assert above["spread_alone_pct"].min() > 50
    assert frame["spread_alone_pct"].iloc[0] < 10
    said = [answer for answer in findings(results) if answer.question == "Which combinations pay?"]
    assert "bert_base+bert_base" in said[0].text.partition("most, by the lower end")[2]
    assert "STP above the number of tenants" in said[-1].text
    assert "distilgpt2+distilgpt2 under MPS" in said[-1].text
    traces = figure(results, "combinations").data
    symbols = [str(symbol) for trace in traces for symbol in np.atleast_1d(trace.marker.symbol)]
    assert sum(symbol.endswith("-open") for symbol in symbols) == 2


def test_power_limited_points_are_marked_and_counted(tmp_path: Path) -> None:
    """Tables have the share of the window under the power cap; findings and notices say how many runs."""
    study = Study(tmp_path, iterations=40)
    clock = {"gpu_sm_clock_mhz_min": 1500.0, "gpu_sm_clock_mhz_median": 1800.0}
    (capped,) = study.run(["bert_base", "distilgpt2"])
    half = {"gpu_throttled_power_cap_s": capped.metrics["window_s"] / 2}
    study.run(["bert_base", "bert_base"], telemetry={**clock, **half})
    study.run(["distilgpt2", "distilgpt2"], telemetry={"gpu_throttled_power_cap_s": 0.0})
    results = pooled(tmp_path)
    shares = tables.overview(results).set_index("mix")["power_capped_pct"]
    assert shares["bert_base+bert_base"] > 10
    assert shares["distilgpt2+distilgpt2"] == 0
    assert np.isnan(shares["bert_base+distilgpt2"])
    said = paragraph(findings(results))
    assert "The power cap lowered the clocks in 1 of 3 runs (power-limited), in 1 of them to under 95 %" in said
    assert "capped %" in markdown.page(results, title="t")
    page = report.build(results, {})
    assert "power-capped (%)" in page
    assert "<li>The power cap lowered the clocks in 1 of 3 runs" in page.partition('<p class="advice">')[0]


def test_open_loop_has_no_stp(results: Results) -> None:
    """What it gets done is its load, not what sharing is worth."""
    frame = tables.overview(results)
    open_loop = ~results.points["closed"].to_numpy(bool)
    assert open_loop.any()
    assert frame.loc[open_loop, ["stp", "antt", "fairness", "stp_ci_low"]].isna().all(axis=None)
    assert frame.loc[open_loop, "throughput_rps"].notna().all()
    tenants = results.tenants[results.tenants["arrival"] != "closed"]
    assert len(tenants)
    assert tenants[["slowdown", "normalized_progress"]].isna().all(axis=None)
    assert not any(tenants["compared"].explode())  # so no picture draws closed-loop latency as its latency alone


def test_the_page_and_the_picture_list_models_in_one_order(tmp_path: Path) -> None:
    """Encoders first, then decoders, each by name; however the runs were ordered."""
    study = Study(tmp_path, iterations=20)
    for pair in (["mistral_7b", "distilgpt2"], ["deberta_v3_base", "mistral_7b"], ["bert_base", "distilgpt2"]):
        study.run(pair)
    results = pooled(tmp_path)
    (trace,) = figure(results, "interference-matrix").data
    table = markdown.page(results, title="t").partition("| slowed \\ beside |")[2].splitlines()
    assert table[0].strip(" |").split(" | ") == list(trace.x)
    assert [line.split(" | ")[0].strip("| ") for line in table[2:6]] == list(trace.y)
    assert list(trace.y) == ["bert_base", "deberta_v3_base", "distilgpt2", "mistral_7b"]


@pytest.mark.parametrize(
    ("execution", "second", "said"),
    [
        ("cuda_graph", "2026-11-30T14:00:00Z", True),
        ("compile", "2026-11-30T14:00:00Z", True),
        ("eager", "2026-11-30T14:00:00Z", False),
        ("cuda_graph", "2026-11-29T20:00:00Z", False),
    ],
)
def test_graphs_with_and_without_masks_are_not_put_together_in_silence(
    tmp_path: Path, execution: str, second: str, said: bool
) -> None:
    """Of one point, one run before graphs had no mask and one after: no record says which has one, the date does."""
    study = Study(tmp_path, iterations=40)
    for started in ("2026-11-29T10:00:00Z", second):
        study.run(["bert_base", "distilgpt2"], started_at=started, baseline=False)
    data = load(records=tmp_path)
    results = pool(replace(data, tenants=data.tenants.assign(execution=execution)), draws=50)
    about = [text for text in summary(results).caveats if "mask" in text]
    assert len(about) == said
    if said:
        assert about[0].startswith(
            "Runs from before and after 30 November 2026 are put together in 1 point of CUDA graphs"
        )
