"""What may share a GPU: ``python -m analysis.advise --models bert_base,gpt2 --slo-ms bert_base=20,gpt2=100``.

Lives here: :func:`advise` and the command. May touch: nothing beyond reading runs. Answers only from what was measured:
of the mixes that serve all models asked for, the one with the most requests a second in which every tenant's latency
percentile stays within its level, surely (with its whole 95 % interval) or else as measured; and what has not been
measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.data import DataError, load
from analysis.frames import rows_of
from analysis.options import add_source, refusing
from analysis.pooling import Results, in_order, pool
from mtexp.metrics.bootstrap import Interval, percentile_interval
from mtexp.metrics.latency import percentile_ms, percentile_name, supported

KEEPS, LIKELY, MISSES, UNKNOWN = "keeps", "likely", "misses", "unknown"
_WORST = (KEEPS, LIKELY, MISSES, UNKNOWN)
_MOST_OTHERS = 8
_EXTRA = 2
"""Tenants more than models asked for, up to which mixes that were not measured are named."""
_MODES = {
    "time slicing": "mps_settings=disabled",
    "MPS": "mps_settings=default",
    "MPS equal share": "mps_settings=equal_share",
    "MPS 50 %": "mps_settings=half",
    "streams": "sharing=streams",
    "MIG": "sharing=mig",
}


@dataclass(frozen=True, slots=True)
class Level:
    """One tenant against its service level."""

    label: str
    percentile: str
    """The highest that its iterations support, at most p99; empty = none is."""
    latency_ms: Interval | None
    slo_ms: float
    state: str
    """``keeps`` (the whole interval is within, and so is every run), ``likely`` (the figure is, its interval or a run
    is not), ``misses``, or ``unknown`` (too few requests)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One measured mix that serves every model asked for."""

    mix: str
    sharing: str
    throughput_rps: float
    levels: tuple[Level, ...]
    records: tuple[str, ...]

    @property
    def state(self) -> str:
        """That of the tenant that is worst off."""
        return max((level.state for level in self.levels), key=_WORST.index)


@dataclass(frozen=True, slots=True)
class Advice:
    """What the measured runs say."""

    models: tuple[str, ...]
    best: Candidate | None
    """None when no measured mix keeps every level; one that keeps them surely comes before one that likely does."""
    others: tuple[Candidate, ...]
    unmeasured: tuple[str, ...]
    """What might be better and was not measured, in words."""

    def __str__(self) -> str:
        """The advice as text."""
        asked = " + ".join(self.models)
        if self.best is None:
            lines = [f"No measured mix serves {asked} with every level kept."]
        else:
            lines = [
                f"Serve {asked} as mix {self.best.mix} under {self.best.sharing}: "
                f"{self.best.throughput_rps:.1f} requests/s, {_why(self.best)}.",
                *_level_lines(self.best),
                f"Runs it rests on: {', '.join(self.best.records)}.",
            ]
        if self.others:
            lines.append("Also measured:")
        for other in self.others[:_MOST_OTHERS]:
            lines.append(f"  {other.mix} under {other.sharing}: {other.throughput_rps:.1f} requests/s, {_why(other)}")
        if self.unmeasured:
            lines.append("Not measured, so not considered:")
            lines += [f"  {text}" for text in self.unmeasured]
        return "\n".join(lines)


def advise(results: Results, models: Sequence[str], slo_ms: Mapping[str, float]) -> Advice:
    """Choose the measured mix that serves most requests a second while every tenant keeps its level.

    Args:
        results: What was measured.
        models: To be served, each by one tenant or more.
        slo_ms: Service level of each model.

    Raises:
        DataError: A model was never measured, or has no level.
    """
    _check(results, models, slo_ms)
    wanted = set(models)
    points = results.points[[set(own) == wanted for own in results.points["models"]]]
    points, other_work = _same_work(results, points)
    candidates = [_candidate(results, point, slo_ms) for point in rows_of(points)]
    candidates = [candidate for candidate in candidates if not _short(candidate, models)]
    candidates.sort(key=lambda c: (_WORST.index(c.state), -c.throughput_rps))
    best = candidates[0] if candidates and candidates[0].state in (KEEPS, LIKELY) else None
    others = tuple(candidates[1:] if best else candidates)
    return Advice(tuple(models), best, others, tuple(_unmeasured(results, models) + other_work))


def _check(results: Results, models: Sequence[str], slo_ms: Mapping[str, float]) -> None:
    there = sorted({model for own in results.points["models"] for model in own})
    if unknown := [model for model in models if model not in there]:
        raise DataError(f"--models: {', '.join(unknown)} was not measured in {results.data.source}. "
                        f"There are {', '.join(there)}")  # fmt: skip
    if without := [model for model in dict.fromkeys(models) if model not in slo_ms]:
        raise DataError(f"--slo-ms: no level for {', '.join(without)}; give e.g. --slo-ms {without[0]}=50")


def _candidate(results: Results, point: Mapping[str, Any], slo_ms: Mapping[str, float]) -> Candidate:
    rows = rows_of(results.tenants[results.tenants["point"] == point["point"]])
    levels = tuple(_level(results, row, slo_ms[str(row["model"])]) for row in rows)
    return Candidate(str(point["mix"]), str(point["sharing"]), float(point["throughput_rps"]), levels, point["records"])


def _same_work(results: Results, points: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Points whose tenants do what most of their model do: only requests of one kind can be counted together."""
    rows = results.tenants
    work = pd.Series([_work(row) for row in rows_of(rows)], index=rows.index)
    usual = work.groupby(rows["model"]).agg(lambda own: own.mode().iloc[0])
    other = (work != rows["model"].map(usual)) & rows["point"].isin(points["point"])
    kinds = sorted((rows.loc[other, "model"] + " " + work[other]).unique())
    said = [f"requests unlike those of most runs: {', '.join(kinds)}; choose them with --query"] if kinds else []
    return points[~points["point"].isin(rows.loc[other, "point"])], said


def _work(tenant: Mapping[str, Any]) -> str:
    return f"{tenant['workload']} (batch {tenant['batch_size']}, sequence {tenant['seq_len']})"


def _short(candidate: Candidate, models: Sequence[str]) -> bool:
    """Whether it has fewer tenants of a model than asked for."""
    have = Counter(level.label.split(" ")[0] for level in candidate.levels)
    return any(have[model] < count for model, count in Counter(models).items())


def _level(results: Results, tenant: Mapping[str, Any], slo_ms: float) -> Level:
    pairs = zip(tenant["records"], tenant["ids"], strict=True)
    parts = [results.data.samples(record, own)["latency_ms"].to_numpy(np.float64) for record, own in pairs]
    latency_ms = np.concatenate([np.empty(0), *parts])
    found = supported(len(latency_ms))
    if not found or tenant.get("saturated", 0) == 1:
        state = MISSES if tenant.get("saturated", 0) == 1 else UNKNOWN
        return Level(str(tenant["label"]), "", None, slo_ms, state)
    interval = percentile_interval(latency_ms, found[-1])
    runs_ms = [percentile_ms(np.sort(part), found[-1]) for part in parts if len(part)]
    surely = interval.high <= slo_ms and max(runs_ms) <= slo_ms
    state = KEEPS if surely else LIKELY if interval.value <= slo_ms else MISSES
    return Level(str(tenant["label"]), percentile_name(found[-1]), interval, slo_ms, state)


def _level_lines(candidate: Candidate) -> list[str]:
    return [f"  {level.label}: {_measured(level)}" for level in candidate.levels]


def _measured(level: Level) -> str:
    if level.latency_ms is None:
        return "too few requests for any percentile" if level.state == UNKNOWN else "cannot keep up with its rate"
    at = level.latency_ms
    text = f"{level.percentile} {at.value:.1f} ms [{at.low:.1f}, {at.high:.1f}] against {level.slo_ms:g} ms"
    return text if level.percentile == "p99" else f"{text} (too few requests for p99)"


def _why(candidate: Candidate) -> str:
    if candidate.state == KEEPS:
        runs = len(candidate.records)
        return f"every level kept in each of {runs} runs" if runs > 1 else "every level kept in the one run measured"
    failing = next(level for level in candidate.levels if level.state == candidate.state)
    if candidate.state == LIKELY:
        return (
            f"every level kept as measured, but not surely for {failing.label}: measure more iterations or repetitions"
        )
    word = "misses its level" if candidate.state == MISSES else "cannot be judged"
    return f"{failing.label} {word}: {_measured(failing)}"


def _unmeasured(results: Results, models: Sequence[str]) -> list[str]:
    """Sharing modes in which the mix asked for is absent, and mixes with one or two tenants more."""
    token = "+".join(model if count == 1 else f"{model}*{count}" for model, count in Counter(models).items())
    there = {(tuple(sorted(p["models"])), p["sharing"]) for p in rows_of(results.points)}
    sharings = in_order(results.points["sharing"].unique())
    asked = tuple(sorted(models))
    found = []
    if missing := [sharing for sharing in sharings if (asked, sharing) not in there]:
        how = " or ".join(_MODES[sharing] for sharing in missing if sharing in _MODES)
        found.append(f"{token} under {', '.join(missing)}: python run.py mix={token} {how}".rstrip())
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


# --- command ----------------------------------------------------------------------------------------------------------


def _levels(text: str) -> dict[str, float]:
    """``bert_base=20,mistral_7b=100`` as a mapping.

    Raises:
        DataError: It is not that.
    """
    found = {}
    for part in filter(None, text.split(",")):
        model, _, value = part.partition("=")
        try:
            found[model.strip()] = float(value)
        except ValueError:
            found[model.strip()] = float("nan")
        if not found[model.strip()] > 0:
            raise DataError(f"--slo-ms {part}: allowed: MODEL=MILLISECONDS above 0, e.g. bert_base=20,mistral_7b=100")
    return found


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; exit code 1 when no measured mix keeps every level, 2 when nothing can be said."""
    parser = argparse.ArgumentParser(prog="python -m analysis.advise", description="Which mix to serve, and how.")
    parser.add_argument("--models", required=True, help="comma-separated, e.g. bert_base,mistral_7b")
    parser.add_argument("--slo-ms", required=True, metavar="MODEL=MS,...", help="service level of each model")
    add_source(parser, positional=False)
    options = parser.parse_args(arguments)
    models = [name.strip() for name in options.models.split(",") if name.strip()]
    if not models:
        raise DataError("--models is empty; name models that were measured, e.g. bert_base,mistral_7b")
    levels = _levels(options.slo_ms)
    data = load(
        options.query, sweep=options.sweep, records=options.records, uri=options.uri, experiment=options.experiment
    )
    advice = advise(pool(data, draws=1), models, levels)
    sys.stdout.write(f"{advice}\n")
    return 0 if advice.best else 1


if __name__ == "__main__":
    sys.exit(main())
