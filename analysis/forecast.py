"""Mixes that were not measured: their predicted latency against service levels.

Lives here: :func:`forecasts`, :func:`not_measured`, how a mix and a sharing mode are written on the command line. May
touch: nothing outside its arguments. A forecast is no measurement: each has its risk of missing a level, and the
command that would measure it. A percentile of latency is the predicted mean (:mod:`analysis.predictor`) times the ratio
of percentile and mean that the model has in mixes of the same sharing mode, or alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from mtexp.commands import command_line
from mtexp.metrics.latency import min_iterations, percentile_ms
from mtexp.metrics.samples import Floats

from .frames import rows_of
from .pooling import Results, in_order
from .predictions import rests_on
from .predictor import COVERAGE, Predicted, Predictor
from .predictor_data import predictor_of

RISKY = 0.5
"""A forecast that more likely misses a level than not is not given."""
EXTRA = 2
"""Tenants more than models asked for, up to which mixes that were not measured are named."""
_WORK = {
    "precision": ("precision", "fp16"),
    "execution": ("execution", "eager"),
    "workload": ("workload", "forward"),
    "batch_size": ("workload.batch_size", "8"),
    "seq_len": ("workload.seq_len", "128"),
}
"""Columns of a tenant, with the key of the configuration and its default."""
_FEWEST = 64
"""Requests from which on a run says how a percentile lies to the mean."""
_LEAST_SPREAD = 0.05
"""Standard deviation of the logarithm of that ratio, at least."""
_Z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
MODES = {
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
    """One kind of tenant of a forecast."""

    label: str
    count: int
    slo_ms: float
    predicted_ms: float
    """The percentile of its latency."""
    risk: float
    """Chance that it misses its level, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A mix that was not measured, in one sharing mode."""

    mix: str
    """As it is written on the command line."""
    sharing: str
    predicted_rps: float
    rates: Mapping[str, float]
    """Predicted requests a second, by model."""
    levels: tuple[Level, ...]
    overrides: tuple[str, ...]
    """Command-line overrides of the run that would measure it."""
    rests_on: str

    @property
    def risk(self) -> float:
        """Chance that any level is missed, at most (the sum of risks)."""
        return min(1.0, sum(level.risk for level in self.levels))


class Forecaster:
    """Predictions of one study for mixes that were not measured."""

    def __init__(self, results: Results, slo_ms: Mapping[str, float], percentile: float):
        """Levels are of models; ``percentile`` (in percent) of latency is compared with them."""
        self.results, self.slo_ms, self.percentile = results, slo_ms, percentile
        self.predictor: Predictor = predictor_of(results)
        self._tails: dict[tuple[str, str], tuple[float, float] | None] = {}

    @property
    def modes(self) -> list[str]:
        """Sharing modes that can be predicted."""
        return [mode for mode in self.predictor.fits if override_of(mode)]

    def forecast(self, labels: Sequence[str], mode: str) -> Forecast | None:
        """Judge a mix; None where too little is known: no run alone, no interval, no ratio of percentile and mean.

        Args:
            labels: Models, each as often as it has tenants.
            mode: Of :attr:`modes`.
        """
        if not set(labels) <= set(self.predictor.lone):
            return None
        predicted = self.predictor.predict(labels, mode)
        levels = [self._level(one, mode) for one in predicted]
        found = [level for level in levels if level is not None]
        if len(found) < len(levels):
            return None
        rates = {one.label: 1e3 * one.count / one.latency_ms for one in predicted}
        token = token_of(labels)
        iterations = max(min_iterations(self.percentile), 100)
        tenants = self.results.tenants
        work = work_overrides(tenants[tenants["label"].isin(labels)])
        overrides = (f"mix={token}", override_of(mode), *work, f"measure.iterations={iterations}", "repetitions=3")
        why = rests_on(self.predictor, mode, predicted)
        return Forecast(token, mode, sum(rates.values()), rates, tuple(found), overrides, why)

    def _level(self, one: Predicted, mode: str) -> Level | None:
        tail = self._tail(one.label, mode)
        if tail is None or one.high == math.inf:
            return None
        log_ratio, spread = tail
        sd = math.hypot(math.log(one.high / one.slowdown) / _Z, spread)
        log_ms = math.log(one.latency_ms) + log_ratio
        risk = 1 - NormalDist(log_ms, sd).cdf(math.log(self.slo_ms[one.label]))
        return Level(one.label, one.count, self.slo_ms[one.label], math.exp(log_ms), risk)

    def _tail(self, label: str, mode: str) -> tuple[float, float] | None:
        """Logarithm of percentile / mean of a model's latency, and its spread; None where no run is long enough."""
        if (label, mode) not in self._tails:
            known = self._shared(label, mode) or self._alone(label)
            logs = [math.log(percentile_ms(ms, self.percentile) / ms.mean()) for ms in known]
            spread = float(np.std(logs)) if len(logs) > 1 else 0.0
            self._tails[label, mode] = (float(np.median(logs)), max(spread, _LEAST_SPREAD)) if logs else None
        return self._tails[label, mode]

    def _shared(self, label: str, mode: str) -> list[Floats]:
        points = self.results.points
        wanted = points[(points["sharing"] == mode) & points["closed"].astype(bool) & (points["num_tenants"] > 1)]
        tenants = self.results.tenants
        rows = tenants[(tenants["label"] == label) & tenants["point"].isin(wanted["point"])]
        return self._long_enough([m for row in rows_of(rows) for m in zip(row["records"], row["ids"], strict=True)])

    def _alone(self, label: str) -> list[Floats]:
        tenants = self.results.tenants
        rows = rows_of(tenants[tenants["label"] == label])
        return self._long_enough(list({m for row in rows for group in row["compared"] for m in group}))

    def _long_enough(self, measured: Sequence[tuple[str, str]]) -> list[Floats]:
        return [own_ms for own_ms in self.results.data.latencies_ms(measured) if own_ms.size >= _FEWEST]


def forecasts(
    results: Results,
    models: Sequence[str],
    slo_ms: Mapping[str, float],
    percentile: float,
    measured: Collection[tuple[tuple[str, ...], str]],
) -> list[Forecast]:
    """Mixes of ``models``, and with one tenant more, that were not measured, the most requests a second first.

    Those that miss a level with a chance of more than 10 % come after those that do not; beyond 50 % they are left out.

    Args:
        results: What was measured.
        models: To be served, each by one tenant or more.
        slo_ms: Service level of each.
        percentile: Of latency, in percent, that is compared with the levels.
        measured: Models (sorted) and sharing mode of what was measured.
    """
    forecaster = Forecaster(results, slo_ms, percentile)
    found = []
    for mode in forecaster.modes:
        for labels in (list(models), *([*models, more] for more in dict.fromkeys(models))):
            if len(labels) > 1 and (tuple(sorted(labels)), mode) not in measured:
                one = forecaster.forecast(labels, mode)
                if one is not None and one.risk <= RISKY:
                    found.append(one)
    return sorted(found, key=lambda one: (one.risk > 1 - COVERAGE, -one.predicted_rps))


def token_of(labels: Sequence[str]) -> str:
    """A mix as it is written on the command line."""
    return "+".join(label if count == 1 else f"{label}*{count}" for label, count in Counter(labels).items())


def override_of(sharing: str) -> str:
    """What to write on the command line for a sharing mode, as :func:`analysis.pooling.sharing_name` calls it.

    Empty for one that has more in its name: a design, an execution.
    """
    own = re.fullmatch(r"MPS ([\d.]+) %", sharing) or re.fullmatch(r"(?:MPS|CPU) \(?([^)]+)\)?", sharing)
    if sharing in MODES or "," in sharing:
        return MODES.get(sharing, "")
    return f"mps_settings={own[1]}{'pct' if sharing.endswith('%') else ''}" if own is not None else f"sharing={sharing}"


def not_measured(results: Results, models: Sequence[str], points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sharing modes in which the mix asked for is not among ``points``, and mixes with one or two tenants more."""
    token = token_of(models)
    there = {(tuple(sorted(point["models"])), point["sharing"]) for point in points}
    sharings = in_order(results.points["sharing"].unique())
    asked = tuple(sorted(models))
    found = []
    if missing := [sharing for sharing in sharings if (asked, sharing) not in there]:
        how = " or ".join(words_of(sharing) for sharing in missing)
        found.append(f"{token} under {', '.join(missing)}: {command_line('run')} mix={token} {how}")
    for model in dict.fromkeys(models):
        for extra in range(1, EXTRA + 1):
            more = tuple(sorted([*models, *[model] * extra]))
            if not any((more, sharing) in there for sharing in sharings):
                found.append(f"{token} with {extra} more {model}, in any sharing mode")
                break
    nowhere = [f"{name} ({how})" for name, how in MODES.items() if name not in sharings]
    if nowhere and not any(sharing.startswith("CPU") for sharing in sharings):
        found.append(f"any mix under {', '.join(nowhere)}")
    return found


def words_of(sharing: str) -> str:
    """What to write on the command line for a sharing mode, as :func:`analysis.pooling.sharing_name` calls it."""
    mode, _, fixed = sharing.partition(", ")
    return f"{override_of(mode)} measure.overlap=fixed" if fixed else override_of(mode)


def work_overrides(tenants: pd.DataFrame) -> tuple[str, ...]:
    """Overrides of a run whose tenants do what those of ``tenants`` (rows) do, as far as all agree; defaults unsaid."""
    found = []
    for name, (key, usual) in _WORK.items():
        values = tenants.reindex(columns=[name])[name].dropna().astype(str).unique()
        if len(values) == 1 and values[0] != usual:
            found.append(f"{key}={values[0]}")
    return tuple(found)
