"""What may share a GPU: ``python -m analysis.advise --models bert_base,gpt2 --slo-ms bert_base=20,gpt2=100``.

Lives here: :func:`advise` and the command. May touch: nothing beyond reading runs. Answers only from what was measured:
of the mixes that serve all models asked for, the one with the most requests a second in which every tenant's latency
stays within its level at one percentile, the same for all, surely (with its whole 95 % interval) or else as measured;
and what has not been measured.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mtexp.commands import command_line
from mtexp.metrics.bootstrap import Interval, percentile_interval
from mtexp.metrics.latency import min_iterations, percentile_ms, percentile_name
from mtexp.metrics.samples import Floats
from mtexp.output import enter

from .dataset import VALID, DataError
from .frames import rows_of
from .options import add_source, read, refusing
from .pooling import Results, in_order, pool

KEEPS, LIKELY, MISSES, UNKNOWN = "keeps", "likely", "misses", "unknown"
_WORST = (KEEPS, LIKELY, MISSES, UNKNOWN)
_PERCENTILES = (99.0, 95.0, 90.0)
"""Percentiles for judging levels; the highest one that the data support is used."""
_MOST_OTHERS = 8
_EXTRA = 2
"""Tenants more than models asked for, up to which mixes that were not measured are named."""
_MODES = {
    "time slicing": "mps_settings=disabled",
    "MPS": "mps_settings=default",
    "MPS equal share": "mps_settings=equal_share",
    "MPS 50 %": "mps_settings=half",
    "MPS 25 %": "mps_settings=quarter",
    "streams": "sharing=streams",
    "green contexts": "sharing=green_contexts",
    "MIG": "sharing=mig",
}


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
    verdict: str = VALID
    """INVALID where one of its runs is (``--include-invalid``)."""

    @property
    def state(self) -> str:
        """Result of the worst tenant."""
        return max((level.state for level in self.levels), key=_WORST.index)


@dataclass(frozen=True, slots=True)
class Advice:
    """The advice from the measured runs."""

    models: tuple[str, ...]
    percentile: float
    """Of latency, in percent, by which every candidate was judged."""
    chosen: bool
    """Whether the user chose it; if not, it is the highest that the data support."""
    best: Candidate | None
    """The best mix; None if no measured mix keeps every level. ``keeps`` ranks before ``likely``."""
    others: tuple[Candidate, ...]
    unmeasured: tuple[str, ...]
    """Descriptions of mixes that might be better but were not measured."""

    def __str__(self) -> str:
        """The advice as text."""
        asked, name = " + ".join(self.models), percentile_name(self.percentile)
        if self.best is None:
            lines = [f"No measured mix serves {asked} with every level kept."]
        else:
            lines = [
                f"Serve {asked} as mix {self.best.mix} under {self.best.sharing}: "
                f"{self.best.throughput_rps:.1f} requests/s, {_why(self.best, name)}.",
                *(f"  {level.label}: {_measured(level, name)}" for level in self.best.levels),
                f"Runs it rests on: {', '.join(self.best.records)}.",
            ]
        if self.others:
            lines.append("Also measured:")
        for other in self.others[:_MOST_OTHERS]:
            figure = f"{other.throughput_rps:.1f} requests/s"
            lines.append(f"  {other.mix} under {other.sharing}: {figure}, {_why(other, name)}")
        if self.best or self.others:
            lines.append(f"Judged by {name} of latency{'' if self.chosen else self._reason}.")
        if self.unmeasured:
            lines.append("Not measured, so not considered:")
            lines += [f"  {text}" for text in self.unmeasured]
        return "\n".join(lines)

    @property
    def _reason(self) -> str:
        highest, lowest = _PERCENTILES[0], _PERCENTILES[-1]
        if self.percentile == highest:
            return ", which all of them support"
        why = "below which no level is judged" if self.percentile == lowest else "the highest that all of them support"
        needed = min_iterations(highest)
        return f", {why}: {percentile_name(highest)} needs {needed} requests or more of every tenant"


def advise(
    results: Results, models: Sequence[str], slo_ms: Mapping[str, float], *, percentile: float | None = None
) -> Advice:
    """Choose the measured mix that serves most requests a second while every tenant keeps its level.

    Only mixes whose tenants do the same (workload, batch, sequence, precision, execution, arrival) are compared: those
    in closed loop if there are any, since in open loop requests a second are what was asked for; then the kind that
    was measured most.

    Args:
        results: What was measured.
        models: To be served, each by one tenant or more.
        slo_ms: Service level of each model.
        percentile: Of latency, in percent, by which every mix is judged; None = of p99, p95 and p90 the highest that
            all mixes support, but for those that do not support p90.

    Raises:
        DataError: A model was never measured, has no level or one that is none, a level is of a model that is not to be
            served, or the percentile is none.
    """
    _check(results, models, slo_ms, percentile)
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
    candidates = [_candidate(point, tenants[point["point"]], slo_ms, judged) for point in points]
    candidates.sort(key=lambda c: (_WORST.index(c.state), -c.throughput_rps))
    best = candidates[0] if candidates and candidates[0].state in (KEEPS, LIKELY) else None
    unmeasured = _unmeasured(results, models, points)
    if other := sorted(set().union(*kinds) - usual):
        unmeasured.append(f"requests of another kind: {', '.join(other)}; choose them with --query")
    others = tuple(candidates[1:] if best else candidates)
    return Advice(tuple(models), judged, percentile is not None, best, others, tuple(unmeasured))


def _check(results: Results, models: Sequence[str], slo_ms: Mapping[str, float], percentile: float | None) -> None:
    there = sorted({model for own in results.points["models"] for model in own})
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
    return [(row, [] if row.get("saturated", 0) == 1 else _latencies(results, row)) for row in rows]


def _latencies(results: Results, tenant: Mapping[str, Any]) -> _Samples:
    pairs = zip(tenant["records"], tenant["ids"], strict=True)
    parts = [results.data.samples(record, own)["latency_ms"].to_numpy(np.float64) for record, own in pairs]
    return [part for part in parts if part.size]


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
    return Candidate(str(point["mix"]), str(point["sharing"]), rps, levels, point["records"], str(point["verdict"]))


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


def _unmeasured(results: Results, models: Sequence[str], points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sharing modes in which the mix asked for is not among ``points``, and mixes with one or two tenants more."""
    token = "+".join(model if count == 1 else f"{model}*{count}" for model, count in Counter(models).items())
    there = {(tuple(sorted(point["models"])), point["sharing"]) for point in points}
    sharings = in_order(results.points["sharing"].unique())
    asked = tuple(sorted(models))
    found = []
    if missing := [sharing for sharing in sharings if (asked, sharing) not in there]:
        how = " or ".join(_how(sharing) for sharing in missing)
        found.append(f"{token} under {', '.join(missing)}: {command_line('run')} mix={token} {how}")
    for model in dict.fromkeys(models):
        for extra in range(1, _EXTRA + 1):
            more = tuple(sorted([*models, *[model] * extra]))
            if not any((more, sharing) in there for sharing in sharings):
                found.append(f"{token} with {extra} more {model}, in any sharing mode")
                break
    nowhere = [f"{name} ({how})" for name, how in _MODES.items() if name not in sharings]
    if nowhere and not any(sharing.startswith("CPU") for sharing in sharings):
        found.append(f"any mix under {', '.join(nowhere)}")
    return found


def _how(sharing: str) -> str:
    """What to write on the command line for a sharing mode, as :func:`analysis.pooling.sharing_name` calls it."""
    mode, _, fixed = sharing.partition(", ")
    own = re.fullmatch(r"MPS ([\d.]+) %", mode) or re.fullmatch(r"(?:MPS|CPU) \(?([^)]+)\)?", mode)
    if mode in _MODES:
        text = _MODES[mode]
    elif own is not None:
        text = f"mps_settings={own[1]}{'pct' if mode.endswith('%') else ''}"
    else:
        text = f"sharing={mode}"
    return f"{text} measure.overlap=fixed" if fixed else text


# --- command ----------------------------------------------------------------------------------------------------------


def _levels(text: str) -> dict[str, float]:
    """``bert_base=20,mistral_7b=100`` as a mapping.

    Raises:
        DataError: The text has another form.
    """
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        model, _, value = (side.strip() for side in part.partition("="))
        if model in found:
            raise DataError(f"--slo-ms {part}: {model} has a level already, {found[model]:g} ms")
        found[model] = _number(f"--slo-ms {part}", value, "MODEL=MILLISECONDS above 0, e.g. bert_base=20,gpt2=100")
    return found


def _number(what: str, text: str, allowed: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{what}: allowed: {allowed}") from None


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; exit code 1 if no measured mix keeps every level, 2 if no advice is possible."""
    parser = argparse.ArgumentParser(prog=command_line("advise"), description="Which mix to serve, and how.")
    parser.add_argument("--models", required=True, help="comma-separated, e.g. bert_base,mistral_7b")
    parser.add_argument("--slo-ms", required=True, metavar="MODEL=MS,...", help="service level of each model")
    parser.add_argument("--percentile", metavar="P", help="of latency, to judge by, e.g. 99; default what is supported")
    parser.add_argument("--include-invalid", action="store_true", help="also INVALID runs; the answer says so")
    add_source(parser, positional=False)
    options = parser.parse_args(arguments)
    models = [name.strip() for name in options.models.split(",") if name.strip()]
    if not models:
        raise DataError("--models is empty; name models that were measured, e.g. bert_base,mistral_7b")
    levels = _levels(options.slo_ms)
    percentile = None
    if options.percentile is not None:
        percentile = _number(f"--percentile {options.percentile}", options.percentile, "a number, e.g. 99")
    data = read(options, include_invalid=options.include_invalid)
    advice = advise(pool(data, draws=1), models, levels, percentile=percentile)
    sys.stdout.write(f"{advice}\n")
    return 0 if advice.best else 1


if __name__ == "__main__":
    sys.exit(enter(main))
