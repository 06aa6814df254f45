"""One sentence a figure: what it shows, with its interval where there is one.

Lives here: :data:`SENTENCES`, by the name of the figure, for figures that answer no question of
:mod:`analysis.findings`. May touch: nothing outside its arguments. Nothing here is claimed to differ: the
sentences repeat what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mtexp.metrics.repeats import geometric_mean
from mtexp.records import keys
from mtexp.text_tables import rounded

from . import tables
from .capacity import capacities
from .frames import rows_of
from .intervals import text
from .plots.samples import by_neighbours, showcase
from .plots.sharing import slowed
from .plots.theme import interval_text
from .plots.workloads import beside_same
from .pooling import Results
from .sm_curve import sm_curves

_MOST_NAMED = 3
_NOISE = "host_noise_pct"


def _slowed_most_and_least(frame: pd.DataFrame, name: str, of: str) -> str:
    """The rows with the largest and the smallest slowdown; ``name`` is what a row is called, ``of`` what all are."""
    ordered = rows_of(frame.dropna(subset="slowdown").sort_values("slowdown"))
    if not ordered:
        return ""
    most, least = (f"{name.format(**row)}, {interval_text(row, 'slowdown')} times" for row in (ordered[-1], ordered[0]))
    return (
        f"Slowed most of all {len(ordered)} {of}: {most}; least: {least}." if len(ordered) > 1 else f"Slowed: {most}."
    )


def _of_tenants(results: Results) -> str:
    return _slowed_most_and_least(slowed(results), "{label} in {mix} under {sharing}", "tenants")


def _first(texts: Sequence[str], between: str) -> str:
    """The first of the texts, and how many there are beside them."""
    more = len(texts) - _MOST_NAMED
    return between.join(texts[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _of_shares(results: Results) -> str:
    return _slowed_most_and_least(tables.shares(results), "{place}", "tenants with a share")


def _of_sm_curves(results: Results) -> str:
    each = [
        f"{curve.model} needs {curve.knee_sms} [{curve.knee_low_sms}, {curve.knee_high_sms}] of {curve.most_sms} SMs"
        for curve in sm_curves(results.data)
    ]
    return f"To be within 5 % of its latency on the most SMs, {_first(each, ', ')}." if each else ""


def _of_one_axis(results: Results) -> str:
    """ANTT by mode, over the mixes that the figure shows under all of its modes that most of them have."""
    shown = tables.one_axis(results)
    points = results.points[results.points["point"].isin(shown["point"])]
    figures: dict[str, dict[tuple[str, ...], Any]] = {}
    for point in rows_of(points):
        if (antt := tables.figure_on_whole_device(results, point, "antt")) is not None:
            figures.setdefault(str(point["sharing"]), {})[tuple(sorted(point["labels"]))] = antt
    if not figures:
        return ""
    common = set.intersection(*(set(own) for own in figures.values()))
    if len(figures) < 2 or not common:
        return ""
    means = {name: geometric_mean([own[mix] for mix in sorted(common)]) for name, own in figures.items()}
    order = sorted(means, key=lambda name: means[name].value)
    over = f"geometric means over {len(common)} mixes" if len(common) > 1 else "one mix"
    return (
        f"Tenants are slowed least under {order[0]}, {text(means[order[0]].interval)} times, and most under "
        f"{order[-1]}, {text(means[order[-1]].interval)} times ({over})."
    )


def _of_settings(results: Results) -> str:
    found = tables.by_setting(results)
    if found.empty:
        return ""
    first = found.iloc[0]
    same = (found["label"] == first["label"]) & (found["setting"] == first["setting"])
    own = rows_of(found[same & (found["sharing"] == first["sharing"])].sort_values("value"))
    low, high = own[0], own[-1]
    many = high["throughput_rps"] / low["throughput_rps"]
    return (
        f"{first['label']} under {first['sharing']}: a request takes {interval_text(low, 'latency_mean_ms')} ms at "
        f"{first['setting']} {low['value']:g} and {interval_text(high, 'latency_mean_ms')} ms at {high['value']:g}, "
        f"where {many:.2f} times as many are served a second."
    )


def _of_workloads(results: Results) -> str:
    found = beside_same(results)
    if found.empty:
        return ""
    groups = found.groupby(["model", "neighbour", "sharing"], observed=True)["slowdown"]
    apart = groups.max() / groups.min()
    place: Any = apart.idxmax()
    model, neighbour, sharing = place
    same = (found["model"] == model) & (found["neighbour"] == neighbour) & (found["sharing"] == sharing)
    each = [f"{row['label']} {interval_text(row, 'slowdown')}" for row in rows_of(found[same])]
    return f"Beside {neighbour} under {sharing} the same model is slowed differently: {', '.join(each)} times."


def of_capacity(results: Results) -> str:
    """Up to which load or rate each mix keeps every level; nothing where none was searched for."""
    found = capacities(results.data).drop_duplicates("search").dropna(subset="kept")
    each = []
    for row in rows_of(found):
        unit = "of what each serves alone" if row["by"] == "load" else "requests/s"
        missed = f", and misses one at {rounded(row['missed'], 3)}" if pd.notna(row["missed"]) else ""
        kept = f"keeps every service level up to {rounded(row['kept'], 3)} {unit}"
        each.append(f"{row['mix']} under {row['sharing']} {kept}{missed}")
    return f"{_first(each, '; ')}." if each else ""


def _of_levels(results: Results) -> str:
    found = tables.tenants(results).dropna(subset="slo_attainment_pct")
    if found.empty:
        return ""
    least = rows_of(found.sort_values("slo_attainment_pct"))[0]
    return (
        f"{least['label']} in {least['mix']} under {least['sharing']} keeps its level least often: in "
        f"{least['slo_attainment_pct']:.1f} % of {least['iterations_fewest']:.0f} requests (of this run, without an "
        "interval)."
    )


def _of_tokens(results: Results) -> str:
    found = tables.tenants(results).dropna(subset="ttft_p50_ms")
    found = found[found["point"].isin(results.points.loc[results.points["closed"].astype(bool), "point"])]
    if found.empty:
        return ""
    row = rows_of(found.sort_values("ttft_p50_ms"))[-1]
    alone = results.alone.runs.reindex(columns=["model", "workload", "ttft_p50_ms"])
    same = alone[(alone["model"] == row["model"])]["ttft_p50_ms"].dropna()
    before = f", alone after {rounded(same.iloc[0], 3)} ms" if len(same) else ""
    return (
        f"Latest of all first tokens is that of {row['label']} in {row['mix']} under {row['sharing']}: after "
        f"{rounded(row['ttft_p50_ms'], 3)} ms{before} (medians)."
    )


def _of_sensitivity(results: Results) -> str:
    return _slowed_most_and_least(
        tables.sensitivity(results), "{victim} beside {neighbour} under {sharing}", "pairs with a stressor"
    )


def _of_repeats(results: Results) -> str:
    spreads = results.tenants.reindex(columns=["spread_pct"])["spread_pct"].dropna()
    if spreads.empty:
        return ""
    return f"Half of the repeated tenants lie within {spreads.median():.1f} %, all within {spreads.max():.1f} %."


# --- what happened inside a run ---------------------------------------------------------------------------------------


def _shown(results: Results) -> pd.DataFrame:
    """Tenants of the mix that the figures of samples show, with how it was shared."""
    points = showcase(results)
    if points.empty:
        return pd.DataFrame()
    return results.tenants.merge(points[["point", "mix", "sharing"]], on="point")


def _of_distribution(results: Results) -> str:
    found = _shown(results)
    name = "slowdown_p50" if "slowdown_p50" in found and found["slowdown_p50"].notna().any() else "slowdown"
    if name not in found:
        return ""
    word = "half of the requests" if name == "slowdown_p50" else "the mean request"
    row = rows_of(found.sort_values(name))[-1]
    return (
        f"Of {row['mix']}, the mix shown, {row['label']} under {row['sharing']} is furthest from alone: {word} took "
        f"{interval_text(row, name)} times as long as alone."
    )


def _of_time(results: Results) -> str:
    found = _shown(results)
    if found.empty or "drift_pct" not in found or found["drift_pct"].isna().all():
        return ""
    row = rows_of(found.assign(size=found["drift_pct"].abs()).sort_values("size"))[-1]
    moved = f"the latency of {row['label']} under {row['sharing']} moved most within the window"
    return f"Of {row['mix']}, the mix shown, {moved}: by {row['drift_pct']:+.1f} %."


def _of_rounds(results: Results) -> str:
    found = _shown(results)
    if found.empty or _NOISE not in found or "slowdown" not in found:
        return ""
    row = rows_of(found.sort_values("slowdown"))[-1]
    return (
        f"Of {row['mix']}, the mix shown, {row['label']} under {row['sharing']} is slowed most: "
        f"{interval_text(row, 'slowdown')} times over all rounds; its blocks alone, which do the same work, differ by "
        f"{row[_NOISE]:.1f} % (SD)."
    )


def _of_clock(results: Results) -> str:
    found = _shown(results)
    if found.empty or "slowdown_clock" not in found or found["slowdown_clock"].isna().all():
        return ""
    row = rows_of(found.sort_values("slowdown_clock"))[-1]
    return (
        f"Of {row['mix']}, the mix shown, the clock explains a slowdown of {row['slowdown_clock']:.3f} times at most "
        f"({row['label']} under {row['sharing']}, slowed {interval_text(row, 'slowdown')} times in all)."
    )


def _of_neighbours(results: Results) -> str:
    for title, samples in by_neighbours(results):
        for label, own in samples.groupby("label", sort=False):
            medians = own.groupby("neighbours")["service_ms"].median()
            few, many = int(medians.index.min()), int(medians.index.max())
            return (
                f"{label} in {title} takes {rounded(medians[few], 3)} ms with {few} of its neighbours in flight "
                f"and {rounded(medians[many], 3)} ms with {many} (medians)."
            )
    return ""


def _of_device(results: Results) -> str:
    points = showcase(results)
    for name, noun in (("gpu_power_w_mean", "power"), ("cpu_util_pct_mean", "use of the CPU")):
        if name in points and points[name].notna().any():
            unit = keys.metric(name).unit
            each = [f"{row[name]:.0f} {unit} under {row['sharing']}" for row in rows_of(points.dropna(subset=name))]
            return f"Mean {noun} of {points['mix'].iloc[0]} in the window: {', '.join(each)}."
    return ""


SENTENCES: Mapping[str, Callable[[Results], str]] = {
    "slowdown-by-tenant": _of_tenants,
    "shares": _of_shares,
    "sm-curve": _of_sm_curves,
    "one-axis": _of_one_axis,
    "settings": _of_settings,
    "workloads": _of_workloads,
    "capacity": of_capacity,
    "slo-attainment": _of_levels,
    "tokens": _of_tokens,
    "sensitivity": _of_sensitivity,
    "repeats": _of_repeats,
    "latency-ecdf": _of_distribution,
    "latency-over-time": _of_time,
    "rounds": _of_rounds,
    "latency-by-clock": _of_clock,
    "latency-by-neighbours": _of_neighbours,
    "telemetry": _of_device,
}
