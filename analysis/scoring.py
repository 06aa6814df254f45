"""Predictions that were made before, against what was measured after: errors by sharing mode and execution.

Lives here: :func:`score`, :class:`Score`. May touch: nothing outside its arguments. Only runs that started after the
predictions were made count. For comparison: the errors of other predictors at the same time, and the error that even a
perfect one would have, since the measurements err.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from mtexp.text_tables import counted

from .dataset import DataError, Dataset
from .pooling import Results, in_order, pool
from .predictor import Cell
from .predictor_data import measured_cells

OURS, NOISE = "predicted", "measurement noise (a perfect predictor)"
_DRAWS = 200
_Key = tuple[str, tuple[tuple[str, ...], ...], tuple[str, ...]]
"""Mode, what all tenants do (sorted), what this one does."""


@dataclass(frozen=True, slots=True)
class Errors:
    """How far a predictor was off, in percent of the measured slowdown."""

    count: int
    median_pct: float
    mean_pct: float
    p90_pct: float
    worst_pct: float

    @classmethod
    def of(cls, logs: Iterable[float]) -> Errors:
        """Summarise logarithms of predicted / measured."""
        off = 100 * np.abs(np.expm1(np.array(list(logs))))
        return cls(len(off), float(np.median(off)), float(off.mean()), float(np.quantile(off, 0.9)), float(off.max()))


@dataclass(frozen=True, eq=False)
class Score:
    """Predictions against measurements."""

    predictor: str
    """Hash of the predictor that made them."""
    made_at: str
    frozen: str = ""
    """Hash of the file that it was read from, where runs alone were added to it."""
    errors: Mapping[str, Mapping[str, Errors]] = field(default_factory=dict)
    """By regime (sharing mode, execution, number of tenants), then by predictor."""
    held: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By regime: how many 90 % intervals hold the measurement, of how many."""
    before: int = 0
    """Runs that were left out because they had started before."""
    missing: int = 0
    """Predicted tenants that were not measured."""

    def to_json(self) -> dict[str, Any]:
        """For other programs."""
        regimes = {
            regime: {
                "errors": {name: {key: getattr(own, key) for key in Errors.__slots__} for name, own in found.items()},
                "intervals": dict(zip(("held", "of"), self.held.get(regime, (0, 0)), strict=True)),
            }
            for regime, found in self.errors.items()
        }
        return {
            "kind": "score of predictions",
            "predictor": self.predictor,
            "made_at": self.made_at,
            **({"frozen": self.frozen} if self.frozen else {}),
            "runs_before": self.before,
            "not_measured": self.missing,
            "regimes": regimes,
        }

    def text(self, width: int) -> str:
        """A table for each regime."""
        out = io.StringIO()
        console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
        console.print(f"Predictor {self.predictor}, frozen {self.made_at}, against runs that started after.")
        if self.frozen:
            console.print(f"It is {self.frozen} as it was frozen, with runs alone of more models.")
        for regime, found in self.errors.items():
            held, of = self.held.get(regime, (0, 0))
            said = f"; 90 % intervals held {held} of {of} ({100 * held / of:.0f} %)" if of else "; no intervals"
            console.print(f"\n{regime}: error of the slowdown in percent{said}")
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
            for head in ("", "victims", "median", "mean", "90 %", "worst"):
                table.add_column(head, justify="right" if head else "left", overflow="fold")
            for name, own in found.items():
                figures = (own.median_pct, own.mean_pct, own.p90_pct, own.worst_pct)
                table.add_row(name, str(own.count), *(f"{value:.1f}" for value in figures))
            console.print(table)
        if self.before:
            console.print(f"\n{counted(self.before, 'run')} had started before and did not count.")
        if self.missing:
            console.print(f"{self.missing} predicted tenants were not measured after.")
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def score(kept: Mapping[str, Any], data: Dataset) -> Score:
    """Compare predictions (:func:`analysis.predictions.kept`) with what was measured after them.

    Raises:
        DataError: Nothing that was predicted was measured after.
    """
    made_at = pd.Timestamp(kept["made_at"])
    times = pd.to_datetime(data.runs["start_time"], utc=True)
    after = data.runs[times > made_at]
    wanted = data.tenants["record_id"].isin(after["record_id"])
    results = pool(replace(data, runs=after, tenants=data.tenants[wanted]), draws=_DRAWS)
    measured = {_key(cell): cell for cell in measured_cells(results, unprobed=True)}
    logs: dict[str, dict[str, list[float]]] = {}
    held: dict[str, list[bool]] = {}
    missing = 0
    for regime, key, tenant in _predicted(kept):
        cell = measured.get(key)
        if cell is None:
            missing += 1
            continue
        said = {OURS: tenant["predicted_slowdown"]} | tenant["rivals"]
        own = logs.setdefault(regime, {})
        for name, slowdown in said.items():
            own.setdefault(name, []).append(math.log(slowdown) - cell.log)
        own.setdefault(NOISE, []).extend(_noise(cell, results))
        if tenant["predicted_high"] is not None:  # a speed-up is never predicted: an end at 1 is an open one
            low = 0.0 if tenant["predicted_low"] <= 1 else tenant["predicted_low"]
            held.setdefault(regime, []).append(bool(low <= math.exp(cell.log) <= tenant["predicted_high"]))
    if not logs:
        raise DataError(
            f"no predicted mix was measured after {kept['made_at']} in {data.source}: {len(data.runs) - len(after)} "
            f"runs started before, {len(after)} after. Measure mixes that the file predicts, in the same modes"
        )
    return Score(
        str(kept["predictor"]),
        str(kept["made_at"]),
        str(kept.get("frozen", "")),
        {regime: {name: Errors.of(own) for name, own in logs[regime].items() if own} for regime in in_order([*logs])},
        {regime: (sum(own), len(own)) for regime, own in held.items()},
        len(data.runs) - len(after),
        missing,
    )


def _predicted(kept: Mapping[str, Any]) -> Iterable[tuple[str, _Key, Mapping[str, Any]]]:
    for mix in kept["predictions"]:
        for mode in mix["modes"]:
            tenants: Sequence[Mapping[str, Any]] = mode["tenants"]
            counts = Counter({tuple(one["does"]): int(one["count"]) for one in tenants})
            size = "pairs" if counts.total() == 2 else f"{counts.total()} tenants"
            for one in tenants:
                key = str(mode["mode"]), tuple(sorted(counts.elements())), tuple(one["does"])
                yield f"{mode['mode']}, {size}, {one['basis']}", key, one


def _key(cell: Cell) -> _Key:
    return cell.mode, tuple(sorted(one.does for one in (cell.victim, *cell.neighbours))), cell.victim.does


def _noise(cell: Cell, results: Results) -> list[float]:
    """Draws of what the measurement errs by; none where its error is not known."""
    points = results.points[results.points["records"] == cell.records]
    tenants = results.tenants[results.tenants["point"].isin(points["point"])]
    rows = tenants[tenants["label"] == cell.victim.label]
    if not len(rows):
        return []
    figure = results.figures.get((int(rows["point"].iloc[0]), int(rows["position"].iloc[0]), "slowdown"))
    return [] if figure is None or not np.isfinite(figure.errors).all() else figure.errors.tolist()
