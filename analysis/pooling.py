"""Repetitions put together: one row per point measured, one per tenant of it, each figure with its interval.

Lives here: :class:`Results`, :func:`pool`, names of points. May touch: nothing outside its arguments. A *point* is what
was measured, whatever it was called and however often: the tenants (model, workload, precision ...) and how they
share. Every run of a point and every run of its tenants alone enters its figures (:mod:`analysis.estimates`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mtexp.metrics.repeats import Estimate, NormalDraws
from mtexp.metrics.samples import Floats
from mtexp.records import keys

from .baseline_runs import BaselineRuns
from .dataset import Dataset
from .estimates import RUN, TIMER, Key, Study, figures_of
from .fairness import Progress
from .frames import rows_of
from .intervals import text
from .points import Repetition, Repetitions, points_of

DRAWS = 4_000
FEW_DRAWS = 200
"""Enough to find impossible points, where no intervals are needed."""

_SETTING = (
    *("precision", "workload", "execution", "batch_size", "seq_len", "new_tokens", "arrival", "rate_rps", "trace"),
    *("slo_ms", "mps_priority", "pinned_memory_limit", "sm_partition", "mig", "weights"),
    *("partition_sms", "own_pct", "attn_implementation", "parameters"),
)
"""What makes two tenants of a model different."""
_OF_MODEL = ("attn_implementation", "parameters")
"""The settings among these in which models usually differ."""
_NEVER_USUAL = (
    *("rate_rps", "slo_ms", "own_pct", "mps_priority", "pinned_memory_limit", "sm_partition", "mig", "trace"),
    *("partition_sms", "weights"),
)
_NOT_IN_LABELS = ("slo_ms",)
_TAILS = ("slowdown_p50", "slowdown_p90", "slowdown_p95", "slowdown_p99", "tail_inflation")
_MPS = {"default": "MPS", "equal_share": "MPS equal share", "half": "MPS 50 %", "quarter": "MPS 25 %"}
_GPU_MODES = ("time slicing", "MPS", "MPS equal share", "MPS 50 %", "MPS 25 %", "streams", "green contexts", "MIG")
SHARING_ORDER = (*_GPU_MODES, "CPU (disabled)")


@dataclass(frozen=True, eq=False)
class Results:
    """The points of a dataset and their tenants, with figures over all repetitions."""

    data: Dataset
    points: pd.DataFrame
    """One row per point: ``point``, ``mix``, ``sharing``, ``num_tenants``, ``models``, ``records``, ``repetitions``,
    ``closed`` (no tenant in open loop), ``spread_pct`` (between runs, of the tenant in which they differ most), then
    run metrics with ``_ci_low`` and ``_ci_high`` where there are any."""
    tenants: pd.DataFrame
    """One row per tenant of a point: ``point``, ``position``, ``model``, ``label``, ``role``, ``workload``,
    ``batch_size``, ``seq_len``, then tenant metrics."""
    alone: BaselineRuns = field(default_factory=BaselineRuns)
    """Models alone: what the tenants are compared with."""
    figures: Mapping[Key, Estimate] = field(default_factory=dict)
    """What intervals come from, for ratios and averages that keep what figures have in common."""
    latency_alone_ms: Mapping[str, Estimate] = field(default_factory=dict)
    """Mean latency alone, by group of runs alone."""
    progress: Mapping[int, Progress] = field(default_factory=dict)
    """Progress of the tenants of a point, for fairness of several points together."""
    impossible: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Points that are in no table or figure because they are impossible: as :attr:`points`, with ``reason``."""

    def figure(self, row: Mapping[str, Any], key: str) -> Estimate | None:
        """A figure of a point, or of a tenant (a row that has a ``position``); None where it has no interval."""
        return self.figures.get((int(row["point"]), int(row.get("position", RUN)), key))

    @property
    def repeated(self) -> bool:
        """Whether anything was measured more than once: only then do intervals know how runs differ."""
        return bool((self.points["repetitions"] > 1).any()) or any(len(own) > 1 for own in self.alone.groups.values())

    @property
    def sharings(self) -> list[str]:
        """How tenants shared, time slicing first."""
        return in_order(self.points["sharing"].unique())


def in_order(sharings: Sequence[str] | np.ndarray[Any, Any]) -> list[str]:
    """``sharings`` in the order in which tables and figures show them."""
    position = {name: index for index, name in enumerate(SHARING_ORDER)}
    return sorted(map(str, sharings), key=lambda name: (position.get(name, len(position)), name))


def sharing_name(run: Mapping[str, Any]) -> str:
    """How the tenants of a run shared the device, as tables and figures call it; ``fixed``: each N iterations only."""
    name = _sharing_mode(run)
    return f"{name}, fixed" if run.get("overlap") == "fixed" else name


def _sharing_mode(run: Mapping[str, Any]) -> str:
    if run.get("runtime") == "cpu":
        return f"CPU ({run['mps_settings']})"
    if run["sharing"] != "processes":
        return {"mig": "MIG", "green_contexts": "green contexts"}.get(str(run["sharing"]), str(run["sharing"]))
    settings = str(run["mps_settings"])
    if settings == "disabled":
        return "time slicing"
    return _MPS.get(settings) or f"MPS {settings.removesuffix('pct') + ' %' if settings.endswith('pct') else settings}"


def _same_setting(runs: pd.DataFrame) -> pd.Series[Any]:
    """Names of sharing modes; half of the SMs for each of two tenants is an equal share, where both were measured."""
    names = runs["sharing_name"]
    two = (runs["num_tenants"] == 2).fillna(False).astype(bool)
    half, equal = two & (names == _MPS["half"]), two & (names == _MPS["equal_share"])
    return names.mask(half, _MPS["equal_share"]) if equal.any() else names


def _designs_apart(runs: pd.DataFrame, names: pd.Series[Any]) -> pd.Series[Any]:
    """Names of sharing modes with the design where runs of two designs are there: their slowdowns compare with
    different things, and are never put together. A tenant by itself has no slowdown, whatever its design.
    """
    in_blocks = runs.reindex(columns=["design"])["design"] == "crossover"
    in_blocks = in_blocks.fillna(False).astype(bool)
    compared = in_blocks[runs.reindex(columns=["num_tenants"])["num_tenants"].fillna(2) > 1]
    return names.mask(in_blocks, names + ", crossover") if compared.any() and not compared.all() else names


def _slices_apart(runs: pd.DataFrame, names: pd.Series[Any]) -> pd.Series[Any]:
    """Names of sharing modes with the length of the driver's time slice, where runs under several are there."""
    slices = runs.reindex(columns=["time_slice"])["time_slice"].astype("string").str.lower()
    timed = names.astype("string").str.startswith("time slicing")  # without runs the column has no type
    if slices[timed].dropna().nunique() < 2:
        return names
    return names.mask(timed & slices.notna(), names + ", " + slices.astype(object) + " slice")


def pool(data: Dataset, *, draws: int = DRAWS) -> Results:
    """Put the repetitions of each point together.

    Args:
        data: Runs.
        draws: Draws of what figures err by.
    """
    alone = BaselineRuns.of(data)
    points, pooled = points_of(repetitions(data.runs, data.tenants), alone)
    if len(points):
        points["energy_counter_log"] = _energy_counter_log(data.runs, points)
    normals = NormalDraws(draws, np.random.Generator(np.random.SFC64(0)))
    known = figures_of(Study.of(data, alone, points, pooled, normals), alone, points)
    points, pooled = _with_intervals(points, pooled, known.figures)
    reasons = impossible(points, pooled, known.figures)
    bad = points["point"].map(reasons) if len(points) else pd.Series(dtype="string")
    kept = points[bad.isna()].reset_index(drop=True)
    tenants = pooled[pooled["point"].isin(kept["point"])].reset_index(drop=True) if len(points) else pooled
    apart = points[bad.notna()].assign(reason=bad.dropna()).reset_index(drop=True)
    return Results(data, kept, tenants, alone, known.figures, known.latency_alone_ms, known.progress, apart)


def repetitions(runs: pd.DataFrame, tenants: pd.DataFrame) -> Repetitions:
    """Runs by what was measured, each with its tenants, in the order measured."""
    tenants, runs = _described(tenants), runs.copy()
    runs["sharing_name"] = [sharing_name(run) for run in rows_of(runs)]
    runs["sharing_name"] = _slices_apart(runs, _designs_apart(runs, _same_setting(runs)))
    runs = runs.sort_values("start_time", kind="stable", ignore_index=True)
    order = [name for name in ("model", "setting", "active_thread_pct", "tenant") if name in tenants]
    tenants = tenants.sort_values(order, kind="stable", ignore_index=True)
    each = list(
        zip(tenants["model"].astype(str), tenants["setting"], _texts(tenants, "active_thread_pct"), strict=True)
    )
    by_record: dict[str, list[int]] = {}
    for place, record in enumerate(tenants["record_id"].astype(str)):
        by_record.setdefault(record, []).append(place)
    members: dict[tuple[Any, ...], list[Repetition]] = {}
    for place, (record, name) in enumerate(zip(runs["record_id"].astype(str), runs["sharing_name"], strict=True)):
        if own := by_record.get(record):
            members.setdefault((name, *sorted(each[at] for at in own)), []).append((place, own))
    return Repetitions(runs, tenants, members)


_IMPOSSIBLE = 0.01
"""Chance of calling any point of a study impossible that is not."""


def impossible(points: pd.DataFrame, tenants: pd.DataFrame, figures: Mapping[Key, Estimate]) -> dict[int, str]:
    """Points whose figures sharing cannot give, and why: more STP than tenants, or a tenant faster than alone.

    Both are certain only where errors explain them with a chance of 1 % for all points together (Bonferroni), as far as
    the number of draws can tell. Points in open loop are not compared with what was measured in closed loop.
    """
    closed = points[points["closed"].astype(bool)] if len(points) else points
    asked: list[tuple[int, Estimate, float, str]] = []
    for point in rows_of(closed):
        number, count = int(point["point"]), int(point["num_tenants"])
        if (stp := figures.get((number, RUN, "stp"))) is not None and stp.value > count:
            asked.append((number, stp, count, "more STP ({}) than tenants"))
    for row in rows_of(tenants[tenants["point"].isin(closed["point"])] if len(closed) else tenants):
        figure = figures.get((int(row["point"]), int(row.get("position", RUN)), "slowdown"))
        if figure is not None and figure.value < 1:
            asked.append((int(row["point"]), figure, 1.0, f"{row['label']} faster than alone (slowdown {{}})"))
    found: dict[int, str] = {}
    for number, figure, limit, what in asked:
        least = 2 / (len(figure.errors) + 1)
        if least > _IMPOSSIBLE:
            break  # too few draws to be certain of anything
        if figure.p_value(limit) <= max(least, 2 * _IMPOSSIBLE / len(asked)):
            found.setdefault(number, f"impossible: {what.format(text(figure.interval))}; its baselines did not repeat")
    return found


def _energy_counter_log(runs: pd.DataFrame, points: pd.DataFrame) -> list[float]:
    """How far the energy counter and the mean of the sampled power lie apart, on logarithms; NaN without samples."""
    known = runs.reindex(columns=["energy_j", "gpu_power_w_mean", "window_s"]).astype(np.float64)
    apart = np.log(known["energy_j"] / (known["gpu_power_w_mean"] * known["window_s"]))
    by_record = dict(zip(runs["record_id"].astype(str), apart, strict=True))
    each = [np.array([by_record[record] for record in records]) for records in points["records"]]
    return [float(np.sqrt(np.mean(own**2))) for own in each]


# --- names ------------------------------------------------------------------------------------------------------------


def _described(tenants: pd.DataFrame) -> pd.DataFrame:
    """Tenants with ``label`` (the model, and what sets it apart from most of the others) and ``setting``."""
    tenants = tenants.copy()
    tenants["own_pct"] = _own_percentages(tenants)
    columns = {name: _texts(tenants, name) for name in _SETTING}
    models = [str(model) for model in tenants["model"]]
    counted: dict[tuple[str, str], Counter[str]] = {}
    for name, texts in columns.items():
        for model, said in zip(models, texts, strict=True):
            counted.setdefault((name, model if name in _OF_MODEL else ""), Counter())[said] += bool(said)
    usual = {kind: "" if kind[0] in _NEVER_USUAL else texts.most_common(1)[0][0] for kind, texts in counted.items()}
    labels, settings = [], []
    for row, model in enumerate(models):
        ordinary = {name: usual[name, model if name in _OF_MODEL else ""] for name in columns}
        own = {name: texts[row] or ordinary[name] for name, texts in columns.items()}  # older records have fewer
        unusual = {n: text for n, text in own.items() if text != ordinary[n] and n not in _NOT_IN_LABELS}
        labels.append(" ".join([model, *(PHRASES.get(n, "{}").format(text) for n, text in unusual.items())]))
        settings.append("|".join(own.values()))
    return tenants.assign(label=labels, setting=settings)


def _texts(tenants: pd.DataFrame, name: str) -> list[str]:
    if name not in tenants:
        return [""] * len(tenants)
    values = tenants[name]
    if pd.api.types.is_float_dtype(values):
        return ["" if pd.isna(value) else f"{value:.3g}" for value in values]
    return ["" if pd.isna(value) else str(value) for value in values]


PHRASES = {
    "batch_size": "batch {}",
    "seq_len": "seq {}",
    "new_tokens": "{} new tokens",
    "rate_rps": "{}/s",
    "own_pct": "{} % of SMs",
    "mps_priority": "priority {}",
    "pinned_memory_limit": "limit {}",
    "sm_partition": "{} SM chunks",
    "partition_sms": "{} SMs",
    "attn_implementation": "{} attention",
    "parameters": "{} parameters",
}
"""What a setting of a tenant is called in a name; without a phrase by its value."""


def _own_percentages(tenants: pd.DataFrame) -> pd.Series[float]:
    """The MPS percentages that tenants have of their own: where the run's setting says none for all of them."""
    columns = tenants.reindex(columns=["active_thread_pct", "mps_settings"])
    own = columns["mps_settings"].isin(["default", "external"]) & columns["active_thread_pct"].between(
        0, 100, "neither"
    )
    return columns["active_thread_pct"].astype(np.float64).where(own.fillna(False).astype(bool))


# --- intervals --------------------------------------------------------------------------------------------------------


def _with_intervals(
    points: pd.DataFrame, tenants: pd.DataFrame, figures: Mapping[Key, Estimate]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put the figures in, each with its interval if it has one, where the runs have one of that name.

    A percentile's slowdown that some run of the point has, but not all runs together, goes: its baseline was another.
    A tenant alone is fair to nobody: it has a fairness only where its record has one.
    """
    places = {(int(row["point"]), int(row["position"])): index for index, row in enumerate(rows_of(tenants))}
    columns: tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]] = ({}, {})
    wanted = {key for _, _, key in figures}
    has = [{name: np.isfinite(_numbers(frame, name)) for name in wanted & {*frame}} for frame in (points, tenants)]
    sizes = [_numbers(frame.reindex(columns=["num_tenants"]), "num_tenants") for frame in (points, tenants)]
    for (point, position, key), figure in figures.items():
        which, index = (0, point) if position == RUN else (1, places[point, position])
        several = key == "fairness" and sizes[which][index] > 1
        if key == TIMER or several or (key in has[which] and has[which][key][index]):
            own = columns[position != RUN]
            interval = figure.interval
            ends = (interval.low, interval.high) if np.isfinite(interval.high) else (np.nan, np.nan)
            for name, value in zip((key, *keys.interval(key)), (interval.value, *ends), strict=True):
                own.setdefault(name, {})[index] = value
    points, tenants = _updated(points, columns[0]), _updated(tenants, columns[1])
    for name in (name for name in tenants if name in _TAILS):
        gone = [index for index in columns[1].get("slowdown", ()) if index not in columns[1].get(str(name), ())]
        tenants.loc[gone, name] = np.nan
    return points, tenants


def _numbers(frame: pd.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy(np.float64, na_value=np.nan)


def _updated(frame: pd.DataFrame, columns: Mapping[str, Mapping[int, float]]) -> pd.DataFrame:
    found = pd.DataFrame({name: pd.Series(values, dtype=np.float64) for name, values in columns.items()}, frame.index)
    for name in (name for name in found if name in frame):
        found[name] = found[name].where(frame.index.isin(list(columns[str(name)])), frame[name])
    return pd.concat([frame.drop(columns=list(found), errors="ignore"), found], axis=1).copy()  # in one piece
