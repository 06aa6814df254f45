"""What a study gives a predictor: models alone, and measured slowdowns.

Lives here: :func:`lone_models`, :func:`measured_cells`, :func:`predictor_of`, :func:`with_runs_alone`. May touch:
nothing outside its arguments.
A model is alone in runs of its own (baselines), in the alone blocks of runs in rounds, and in runs of one tenant under
a sharing mode. Models are one where they agree in :data:`SAME`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from .baseline_runs import Measured
from .frames import rows_of
from .laws import Lone, mode_name
from .learning import learn_predictor
from .pooling import Results
from .predictions import Frozen
from .predictor import Cell, NotPredictable, Predictor

SAME = ("model", "workload", "execution", "precision", "batch_size", "seq_len", "attn_implementation")
"""What runs of one model agree in."""
_TURNS = "time slicing"
_COUNTERS = ("gpu_sm_active_pct_mean", "gpu_gr_active_pct_mean")
"""Share of the SMs, and of time, in which they and the device work."""
_Key = tuple[str, ...]


def lone_models(results: Results) -> dict[str, Lone]:
    """Models alone by label, those whose busy share is known; without stressors."""
    return {lone.label: lone for lone in _by_key(results).values() if not lone.stressor}


def predictor_of(results: Results) -> Predictor:
    """What a predictor learns from: the runs of one study."""
    device = str(results.data.runs["device"].iloc[0])
    return learn_predictor(measured_cells(results), lone_models(results), device)


def with_runs_alone(predictor: Predictor, results: Results) -> tuple[Predictor, Frozen]:
    """A frozen predictor that knows further models, from runs of each alone; what it knows already stays as it is.

    Raises:
        NotPredictable: They ran on another GPU, or there is no new model among them.
    """
    device = str(results.data.runs["device"].iloc[0])
    if device != predictor.device:
        raise NotPredictable(
            f"the predictor is about {predictor.device}, the runs are of {device}: measure models alone there, too"
        )
    known = {lone.does for lone in predictor.lone.values()}
    found = {}
    for lone in lone_models(results).values():
        if lone.does not in known:
            label = lone.label if lone.label not in predictor.lone else " ".join(lone.does)
            found[label] = replace(lone, label=label)
    if not found:
        raise NotPredictable(
            f"no run alone of a model that the predictor does not know in {results.data.source}. Measure one alone "
            "(mix=MODEL), or name no runs"
        )
    whole = replace(predictor, lone={**predictor.lone, **found})
    return whole, Frozen(predictor.hash, tuple(sorted(found)))


def measured_cells(results: Results, *, unprobed: bool = False) -> list[Cell]:
    """Measured slowdowns of mixes in closed loop; one for each kind of tenant of a mix.

    Args:
        results: Of a study.
        unprobed: Also those of models whose busy share alone is not known: nothing can be learnt from them, but
            predictions can be checked. Their :class:`Lone` has no numbers.
    """
    lone, key_of = _by_key(results), _Keys(results)
    found = []
    for point, rows in _points(results):
        known = [lone.get(key_of(row)) or (_unprobed(row, key_of(row)) if unprobed else None) for row in rows]
        slowdowns = [float(row.get("slowdown", np.nan)) for row in rows]
        if len(rows) < 2 or any(o is None for o in known) or not np.isfinite(slowdowns).all():
            continue
        models = [one for one in known if one is not None]
        mode = mode_name(_plain(point["sharing"]), "/".join(sorted({model.execution for model in models})))
        for place, victim in enumerate(models):
            if any(before.label == victim.label for before in models[:place]):
                continue
            logs = [math.log(s) for s, own in zip(slowdowns, models, strict=True) if own.label == victim.label]
            others = tuple(own for at, own in enumerate(models) if at != place)
            records = tuple(map(str, point["records"]))
            found.append(Cell(mode, str(point["mix"]), victim, others, float(np.mean(logs)), records))
    return found


def _unprobed(row: Mapping[str, Any], key: _Key) -> Lone:
    return Lone(str(row["label"]), math.nan, math.nan, 0, key[SAME.index("execution")], key)


@dataclass(slots=True)
class _RunsAlone:
    """Runs of one model alone."""

    label: str
    logs: list[float] = field(default_factory=list)
    """Logarithms of the mean latency of each run outside MPS."""
    in_mode: dict[str, list[float]] = field(default_factory=dict)
    """Logarithms of its mean latency alone in the runs of each sharing mode."""
    busy_ms: dict[str, list[float]] = field(default_factory=dict)
    """How long the device works, by sharing mode."""
    stressor: bool = False


def _by_key(results: Results) -> dict[_Key, Lone]:
    found = _runs_alone(results)
    key_of = _Keys(results)
    for point, rows in _points(results):
        sharing = _plain(point["sharing"])
        for row in rows:
            own = found.setdefault(key_of(row), _RunsAlone(str(row["label"])))
            own.label = min(own.label, str(row["label"]), key=lambda label: (len(label), label))
            own.stressor = str(row.get("role")) == "stressor"
            alone_ms = float(row.get("alone_latency_mean_ms", np.nan))
            if len(rows) == 1 and (sharing != _TURNS or not own.logs):  # with a baseline it is among the runs alone
                alone_ms = float(row.get("latency_mean_ms", np.nan))
            if alone_ms > 0:
                own.in_mode.setdefault(sharing, []).append(math.log(alone_ms))
                own.busy_ms.setdefault(sharing, []).extend(_busy_ms(row.get("launch_bound_pct"), alone_ms))
    odds = _odds(results)
    known = {key: lone for key, own in found.items() if (lone := _lone(key, own, found)) is not None}
    busy = {key: lone.busy for key, lone in known.items()}
    often = Counter(lone.label for lone in known.values())  # graphs in pairs are called as baselines in eager mode are
    return {
        key: replace(
            lone,
            label=f"{lone.label} eager" if lone.execution == "eager" and often[lone.label] > 1 else lone.label,
            odds=odds.get(_eager(key)),
            eager_busy=busy.get(_eager(key)),
        )
        for key, lone in known.items()
    }


def _runs_alone(results: Results) -> dict[_Key, _RunsAlone]:
    """Models with their runs alone."""
    runs = results.alone.runs
    if runs.empty:
        return {}
    found: dict[_Key, _RunsAlone] = {}
    runs = runs.reindex(columns=["role", "latency_mean_ms", "launch_bound_pct", *SAME])
    for row in rows_of(runs[runs["latency_mean_ms"] > 0]):
        words = [] if str(row["execution"]) in ("eager", "") else [str(row["execution"])]
        own = found.setdefault(_key(row), _RunsAlone(" ".join([str(row["model"]), *words])))
        own.logs.append(math.log(row["latency_mean_ms"]))
        busy_ms = own.busy_ms.setdefault(_TURNS, [])
        busy_ms += _busy_ms(row["launch_bound_pct"], float(row["latency_mean_ms"]))
    taken: set[str] = set()
    for key, own in found.items():
        if own.label in taken:
            own.label = " ".join(key)
        taken.add(own.label)
    return found


def _busy_ms(launch_bound_pct: Any, latency_ms: float) -> list[float]:
    return [] if pd.isna(launch_bound_pct) else [(1 - float(launch_bound_pct) / 100) * latency_ms]


def _odds(results: Results) -> dict[_Key, float]:
    """Log odds that an SM works while the device does, of models alone in eager mode outside MPS, where sampled."""
    runs = results.data.runs[results.data.runs["num_tenants"] == 1].reindex(columns=["record_id", *_COUNTERS])
    tenants = results.data.tenants.reindex(columns=["record_id", "role", "sharing", "mps_settings", *SAME])
    found: dict[_Key, list[float]] = {}
    for row in rows_of(runs.dropna().merge(tenants, on="record_id")):
        how = [str(row[name]) for name in ("execution", "sharing", "mps_settings")]
        working, device = (float(row[name]) for name in _COUNTERS)
        if how == ["eager", "processes", "disabled"] and row["role"] != "stressor" and 0 < working < device:
            found.setdefault(_key(row), []).append(math.log(working / (device - working)))
    return {key: float(np.mean(own)) for key, own in found.items()}


def _lone(key: _Key, own: _RunsAlone, others: Mapping[_Key, _RunsAlone]) -> Lone | None:
    """A model alone; None where nothing says how busy it keeps the device.

    Where no run probed that, a CUDA graph is busy throughout, and the same model as a graph says how long it is busy.
    """
    mode = _TURNS if own.logs or _TURNS in own.in_mode else min(own.in_mode, default="")
    logs = own.logs or own.in_mode.get(mode, [])
    if not logs:
        return None
    latency_ms, execution = math.exp(float(np.mean(logs))), key[SAME.index("execution")]
    probed_ms = own.busy_ms.get(mode, [])
    busy_ms = float(np.mean(probed_ms)) if probed_ms else math.nan
    if not probed_ms and execution == "cuda_graph":
        busy_ms = latency_ms
    elif not probed_ms:
        graph = others.get(tuple("cuda_graph" if name == "execution" else v for name, v in zip(SAME, key, strict=True)))
        as_graph = [] if graph is None else graph.logs or graph.in_mode.get(mode, [])
        busy_ms = math.exp(float(np.mean(as_graph))) if as_graph else math.nan
    if not busy_ms > 0:
        return None
    in_mode_ms = {sharing: math.exp(float(np.mean(found))) for sharing, found in own.in_mode.items()}
    busy = min(busy_ms / latency_ms, 1.0)
    runs = len(own.logs) or max(len(found) for found in own.in_mode.values())
    return Lone(own.label, latency_ms, busy, runs, execution, key, in_mode_ms, stressor=own.stressor)


# --- rows -------------------------------------------------------------------------------------------------------------


class _Keys:
    """What tenants of a study are: as their runs alone say where they are compared with some, else as they say."""

    def __init__(self, results: Results) -> None:
        runs = results.alone.runs
        rows = rows_of(runs.reindex(columns=["record_id", "tenant", *SAME])) if len(runs) else []
        self._alone: dict[Measured, _Key] = {(str(row["record_id"]), str(row["tenant"])): _key(row) for row in rows}

    def __call__(self, row: Mapping[str, Any]) -> _Key:
        compared = [measured for group in row.get("compared") or () for measured in group]
        return self._alone[compared[0]] if compared else _key(row)


def _eager(key: _Key) -> _Key:
    """The same model in eager mode."""
    return tuple("eager" if name == "execution" else value for name, value in zip(SAME, key, strict=True))


def _key(row: Mapping[str, Any]) -> _Key:
    values = [row.get(name) for name in SAME]
    return tuple("" if pd.isna(v) else f"{v:g}" if isinstance(v, int | float) else str(v) for v in values)


def _points(results: Results) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Points in closed loop with their tenants."""
    tenants: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(results.tenants):
        tenants.setdefault(int(row["point"]), []).append(row)
    return [(point, tenants[point["point"]]) for point in rows_of(results.points) if point["closed"]]


def _plain(sharing: object) -> str:
    """A sharing mode without what else is in its name where there are several designs."""
    return str(sharing).removesuffix(", crossover")
