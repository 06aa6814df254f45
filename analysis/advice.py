"""What may share a GPU, from what was measured.

Lives here: :func:`advise` and the text of its answer (the command is :mod:`analysis.advise`). May touch: nothing beyond
reading runs. Of the mixes that serve all models asked for, the best is the one worth most
(:class:`analysis.objective.Objective`: normalized progress, or weighted requests or tokens a second) in which every
tenant's latency stays within its level at one percentile, the same for all, surely (with its whole 95 % interval) or
else as measured. The advice also says what has not been measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mtexp.commands import command_line
from mtexp.metrics.bootstrap import Interval, percentile_interval
from mtexp.metrics.latency import min_iterations, percentile_ms, percentile_name
from mtexp.metrics.samples import Floats
from mtexp.text_tables import rounded

from .dataset import VALID, DataError
from .forecast import Forecast, forecasts, not_measured, override_of, token_of, work_overrides
from .frames import rows_of
from .objective import PROGRESS, Objective
from .pooling import Results

KEEPS, LIKELY, MISSES, UNKNOWN = "keeps", "likely", "misses", "unknown"
_WORST = (KEEPS, LIKELY, MISSES, UNKNOWN)
_PERCENTILES = (99.0, 95.0, 90.0)
"""Percentiles for judging levels; the highest one that the data support is used."""
_MOST_OTHERS = 8
_MOST_PREDICTED = 3


@dataclass(frozen=True, slots=True)
class Level:
    """One tenant compared with its service level."""

    label: str
    slo_ms: float
    state: str
    """``keeps`` (the whole interval is within, and so is every run), ``likely`` (the figure is, its interval or a run
    is not), ``misses``, or ``unknown`` (too few requests)."""
    requests: int = 0
    """Number of requests in all runs; 0 = none, or the queue grew throughout."""
    latency_ms: Interval | None = None
    """The percentile; its upper end is infinite if there are too few requests for a bound."""
    worst_run_ms: float = math.nan
    """The highest percentile of any single run."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One measured mix that serves every model asked for."""

    mix: str
    sharing: str
    throughput_rps: float
    levels: tuple[Level, ...]
    records: tuple[str, ...]
    token: str = ""
    """The mix as the command line has it; empty where its tenants have settings of their own."""
    verdict: str = VALID
    """INVALID where one of its runs is (``--include-invalid``)."""
    score: float = math.nan
    """What it is worth by the objective; NaN where that is not known."""

    @property
    def state(self) -> str:
        """Result of the worst tenant."""
        return max((level.state for level in self.levels), key=_WORST.index)


@dataclass(frozen=True, slots=True)
class Advice:
    """The advice from the measured runs."""

    models: tuple[str, ...]
    percentile: float
    """Percentile of latency by which every candidate was judged."""
    chosen: bool
    """Whether the user chose it; if not, it is the highest that the data support."""
    best: Candidate | None
    """The best mix; None if no measured mix keeps every level. ``keeps`` ranks before ``likely``."""
    others: tuple[Candidate, ...]
    unmeasured: tuple[str, ...]
    """Descriptions of mixes that might be better but were not measured."""
    predicted: tuple[Forecast, ...] = ()
    """Mixes that were not measured, by prediction: those that would serve more than :attr:`best`."""
    work: tuple[str, ...] = ()
    """Overrides of a run whose tenants do what those of :attr:`best` do."""
    objective: Objective = PROGRESS
    """By what candidates were ranked."""

    def __str__(self) -> str:
        """The advice as text."""
        asked, name = " + ".join(self.models), percentile_name(self.percentile)
        if self.best is None:
            lines = [f"No measured mix serves {asked} with every level kept."]
        else:
            lines = [
                f"Serve {asked} as mix {self.best.mix} under {self.best.sharing}: "
                f"{self._worth(self.best)}, {_why(self.best, name)}.",
                *(f"  {level.label}: {_measured(level, name)}" for level in self.best.levels),
                f"Runs it rests on: {', '.join(self.best.records)}.",
            ]
        if self.others:
            lines.append("Also measured:")
        for other in self.others[:_MOST_OTHERS]:
            lines.append(f"  {other.mix} under {other.sharing}: {self._worth(other)}, {_why(other, name)}")
        if self.best or self.others:
            lines.append(f"Judged by {name} of latency{'' if self.chosen else self._reason}.")
        if self.predicted:
            lines.append("Predicted, not measured:")
        for one in self.predicted:
            risk = f"risk of missing a level {'below 1' if one.risk < 0.01 else f'at most {100 * one.risk:.0f}'} %"
            lines.append(f"  {one.mix} under {one.sharing}: ~{one.predicted_rps:.1f} requests/s, {risk}")
            each = ", ".join(f"{o.label} ~{rounded(o.predicted_ms, 3)} ms against {o.slo_ms:g}" for o in one.levels)
            lines.append(f"    {name}: {each}; {one.rests_on}")
        if (overrides := self.confirm) is not None:
            lines.append(f"Confirm it with:\n{command_line('run')} -m {' '.join(overrides)}")
        if self.unmeasured:
            lines.append("Not measured:")
            lines += [f"  {text}" for text in self.unmeasured]
        return "\n".join(lines)

    def _worth(self, candidate: Candidate) -> str:
        return self.objective.text(candidate.score, candidate.throughput_rps)

    @property
    def confirm(self) -> tuple[str, ...] | None:
        """Overrides of the run that would confirm the advice: the first prediction, else the best mix again.

        None where there is neither, or the best mix is not one that a few words on the command line say.
        """
        if self.predicted:
            return self.predicted[0].overrides
        if self.best is None or not self.best.token or not (mode := override_of(self.best.sharing)):
            return None
        iterations = max(min_iterations(self.percentile), 100)
        return f"mix={self.best.token}", mode, *self.work, f"measure.iterations={iterations}", "repetitions=3"

    @property
    def _reason(self) -> str:
        highest, lowest = _PERCENTILES[0], _PERCENTILES[-1]
        if self.percentile == highest:
            return ", which all of them support"
        why = "below which no level is judged" if self.percentile == lowest else "the highest that all of them support"
        needed = min_iterations(highest)
        return f", {why}: {percentile_name(highest)} needs {needed} requests or more of every tenant"


def advise(
    results: Results,
    models: Sequence[str],
    slo_ms: Mapping[str, float],
    *,
    percentile: float | None = None,
    objective: Objective = PROGRESS,
) -> Advice:
    """Choose the measured mix that is worth most by ``objective`` while every tenant keeps its level.

    Only mixes whose tenants do the same (workload, batch, sequence, precision, execution, arrival) are compared: those
    in closed loop if there are any, since in open loop requests a second are what was asked for; then the kind that
    was measured most.

    Args:
        results: What was measured.
        models: To be served, each by one tenant or more.
        slo_ms: Service level of each model.
        percentile: Of latency, in percent, by which every mix is judged; None = of p99, p95 and p90 the highest that
            all mixes support, but for those that do not support p90.
        objective: By what mixes that keep every level are ranked; where it is not known, by requests a second.

    Raises:
        DataError: A model was never measured, has no level or one that is none, a level or a weight is of a model that
            is not to be served, or the percentile is none.
    """
    _check(results, models, slo_ms, percentile)
    if strange := sorted(set(objective.weights) - set(models)):
        raise DataError(f"--weight {strange[0]}: --models has no {strange[0]}, only {', '.join(models)}")
    asked = Counter(models)
    work = _work(results)
    points = [p for p in rows_of(results.points) if set(p["models"]) == set(asked) and asked <= Counter(p["models"])]
    points = [point for point in points if point["throughput_rps"] > 0]  # not of runs that failed before their window
    kinds = Counter(work[point["point"]] for point in points)
    closed = {work[point["point"]]: bool(point["closed"]) for point in points}
    usual = max(kinds, key=lambda kind: (closed[kind], kinds[kind]), default=frozenset())
    points = [point for point in points if work[point["point"]] == usual]
    tenants = {point["point"]: _tenants(results, point) for point in points}
    judged = percentile
    if judged is None:
        judged = _supported([samples for own in tenants.values() for _, samples in own])
    candidates = [
        replace(_candidate(point, own, slo_ms, judged), score=objective.score([row for row, _ in own]))
        for point in points
        for own in [tenants[point["point"]]]
    ]
    known = all(math.isfinite(c.score) for c in candidates)
    candidates.sort(key=lambda c: (_WORST.index(c.state), -(c.score if known else c.throughput_rps)))
    best = candidates[0] if candidates and candidates[0].state in (KEEPS, LIKELY) else None
    unmeasured = not_measured(results, models, points)
    if other := sorted(set().union(*kinds) - usual):
        unmeasured.append(f"requests of another kind: {', '.join(other)}; choose them with --query")
    others = tuple(candidates[1:] if best else candidates)
    predicted = _predicted(results, models, slo_ms, judged, best) if plain(points) else []
    return Advice(
        tuple(models),
        judged,
        percentile is not None,
        best,
        others,
        tuple(unmeasured),
        tuple(predicted),
        _work_of(results, best),
        objective,
    )


def _work_of(results: Results, best: Candidate | None) -> tuple[str, ...]:
    if best is None:
        return ()
    return work_overrides(results.tenants[results.tenants["records"].map(lambda records: records == best.records)])


def plain(points: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all do what most of the study does, so that a model's name is all that there is to say of a tenant."""
    return all(point["labels"] == point["models"] and point["closed"] for point in points)


def _predicted(
    results: Results, models: Sequence[str], slo_ms: Mapping[str, float], percentile: float, best: Candidate | None
) -> list[Forecast]:
    """Mixes that were not measured and would serve more than the best that was."""
    measured = {(tuple(sorted(point["models"])), str(point["sharing"])) for point in rows_of(results.points)}
    found = forecasts(results, models, slo_ms, percentile, measured)
    return [one for one in found if best is None or one.predicted_rps > best.throughput_rps][:_MOST_PREDICTED]


def _check(results: Results, models: Sequence[str], slo_ms: Mapping[str, float], percentile: float | None) -> None:
    alone = results.alone.runs.reindex(columns=["model"])["model"].dropna().astype(str)
    there = sorted({model for own in results.points["models"] for model in own} | set(alone))
    if unknown := [model for model in models if model not in there]:
        raise DataError(f"--models: {', '.join(unknown)} was not measured in {results.data.source}. "
                        f"There are {', '.join(there)}")  # fmt: skip
    if without := [model for model in dict.fromkeys(models) if model not in slo_ms]:
        raise DataError(f"--slo-ms: no level for {', '.join(without)}; give e.g. --slo-ms {without[0]}=50")
    for model, level in slo_ms.items():
        if model not in models:
            raise DataError(f"--slo-ms {model}={level:g}: --models has no {model}, only {', '.join(models)}")
        if not 0 < level < math.inf:
            raise DataError(f"--slo-ms {model}={level:g}: allowed: milliseconds above 0, e.g. {model}=50")
    if percentile is not None and not 50 <= percentile < 100:
        raise DataError(f"--percentile {percentile:g}: allowed: from 50 to below 100, e.g. 99")


def _work(results: Results) -> dict[int, frozenset[str]]:
    """What the tenants of each point do, in words: requests a second of different work cannot be compared."""
    found: dict[int, set[str]] = {}
    for row in rows_of(results.tenants):
        what = f"batch {row['batch_size']}, sequence {row['seq_len']}, {row['precision']}, {row['execution']}"
        what += f", {row['new_tokens']} new tokens" if pd.notna(row["new_tokens"]) else ""
        what += f", {row['attn_implementation']} attention" if pd.notna(row["attn_implementation"]) else ""
        text = f"{row['model']} {row['workload']} ({what}, {row['arrival']} arrival)"
        found.setdefault(row["point"], set()).add(text)
    return {point: frozenset(texts) for point, texts in found.items()}


_Samples = list[Floats]
"""Latencies of a tenant in each run, ms; none where its queue grew throughout."""


def _tenants(results: Results, point: Mapping[str, Any]) -> list[tuple[dict[str, Any], _Samples]]:
    rows = rows_of(results.tenants[results.tenants["point"] == point["point"]])
    runs = [[] if row.get("saturated", 0) == 1 else list(zip(row["records"], row["ids"], strict=True)) for row in rows]
    return [(row, results.data.latencies_ms(own)) for row, own in zip(rows, runs, strict=True)]


def _supported(tenants: Sequence[_Samples]) -> float:
    """The highest of :data:`_PERCENTILES` that all ``tenants`` support, but for those that do not the lowest."""
    *higher, lowest = _PERCENTILES
    able = [np.concatenate(samples) for samples in tenants if samples]
    able = [latency_ms for latency_ms in able if _supports(latency_ms, lowest)]
    return next((p for p in higher if able and all(_supports(latency_ms, p) for latency_ms in able)), lowest)


def _supports(latency_ms: Floats, percentile: float) -> bool:
    """Whether there are enough requests for the percentile and its bound."""
    enough = latency_ms.size >= min_iterations(percentile)
    return enough and percentile_interval(latency_ms, percentile).high < math.inf


def _candidate(
    point: Mapping[str, Any],
    tenants: Sequence[tuple[dict[str, Any], _Samples]],
    slo_ms: Mapping[str, float],
    percentile: float,
) -> Candidate:
    levels = tuple(_level(row, samples, slo_ms[str(row["model"])], percentile) for row, samples in tenants)
    rps = float(point["throughput_rps"])
    token = token_of(point["models"]) if point["labels"] == point["models"] else ""
    verdict = str(point["verdict"])
    return Candidate(str(point["mix"]), str(point["sharing"]), rps, levels, point["records"], token, verdict)


def _level(tenant: Mapping[str, Any], samples: _Samples, slo_ms: float, percentile: float) -> Level:
    label = str(tenant["label"])
    if not samples:
        return Level(label, slo_ms, MISSES if tenant.get("saturated", 0) == 1 else UNKNOWN)
    latency_ms = np.concatenate(samples)
    interval = percentile_interval(latency_ms, percentile)
    worst_run_ms = max(percentile_ms(part, percentile) for part in samples)
    if interval.low > slo_ms:  # an order statistic: it holds for few requests too
        state = MISSES
    elif not _supports(latency_ms, percentile):
        state = UNKNOWN
    elif interval.value > slo_ms:
        state = MISSES
    else:
        state = KEEPS if max(interval.high, worst_run_ms) <= slo_ms else LIKELY
    return Level(label, slo_ms, state, latency_ms.size, interval, worst_run_ms)


def _measured(level: Level, name: str) -> str:
    """Describe a tenant's percentile and its level, or why there is no percentile."""
    at = level.latency_ms
    if at is None:
        return "no requests" if level.state == UNKNOWN else "cannot keep up with its rate"
    if level.state == UNKNOWN:
        needed = min_iterations(float(name.removeprefix("p")))
        if level.requests < needed:
            return f"{name} needs {needed} requests, {level.requests} were measured"
        return f"{name} needs more than the {level.requests} requests measured, because their latencies are correlated"
    ends = f"[{at.low:.1f}, {at.high:.1f}]" if at.high < math.inf else f"at least {at.low:.1f}"
    text = f"{name} {at.value:.1f} ms {ends} against {level.slo_ms:g} ms"
    apart = at.high <= level.slo_ms < level.worst_run_ms
    return f"{text}, {level.worst_run_ms:.1f} ms in one run" if apart else text


def _why(candidate: Candidate, name: str) -> str:
    runs = len(candidate.records)
    invalid = "" if candidate.verdict == VALID else f" ({candidate.verdict} {'runs' if runs > 1 else 'run'} included)"
    if candidate.state == KEEPS:
        where = f"each of {runs} runs" if runs > 1 else "the one run measured"
        return f"every level kept in {where}{invalid}"
    failing = next(level for level in candidate.levels if level.state == candidate.state)
    measured = _measured(failing, name)
    if candidate.state == LIKELY:
        more = "measure more iterations or repetitions"
        return f"every level kept as measured, but not surely for {failing.label} ({measured}): {more}{invalid}"
    word = "misses its level" if candidate.state == MISSES else "cannot be judged"
    return f"{failing.label} {word}: {measured}{invalid}"
