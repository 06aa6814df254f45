"""By what mixes are ranked: normalized progress, or requests a second with a weight for each model.

Lives here: :class:`Objective`, :func:`read_targets`. May touch: the target file (reading).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtexp.text_tables import rounded

from .dataset import DataError

_TARGET_KEYS = ("models", "percentile")
_MODEL_KEYS = ("slo_ms", "weight")


@dataclass(frozen=True, slots=True)
class Objective:
    """What a mix is worth.

    Without weights and tokens: the sum of normalized progress of its tenants (STP), in which a request of a slow model
    counts as much as the time it takes alone. With weights: requests a second, each times the weight of its model.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    """Value of a request, by model; 1 for models that are not named."""
    tokens: bool = False
    """Count tokens and not requests; a weight is then that of a token."""
    cost_per_hour: float = 0.0
    """Price of the device, in any currency; 0 = not asked."""

    def score(self, tenants: list[dict[str, Any]]) -> float:
        """What the tenants of a mix (rows of :attr:`analysis.pooling.Results.tenants`) are worth together.

        NaN where progress is asked for and a tenant has no baseline, or is in open loop.
        """
        if not self.weights and not self.tokens:
            return float(np.sum([row.get("normalized_progress", math.nan) for row in tenants]))
        rates = (float(row["throughput_rps"]) * self._tokens(row) for row in tenants)
        weights = (self.weights.get(str(row["model"]), 1.0) for row in tenants)
        return sum(rate * weight for rate, weight in zip(rates, weights, strict=True))

    def _tokens(self, row: Mapping[str, Any]) -> float:
        """Tokens of a request: those it generates, else those it reads, of the whole batch."""
        if not self.tokens:
            return 1.0
        new = row.get("new_tokens")
        if str(row.get("workload")) == "decode":
            return float(row["batch_size"])
        each = new if str(row.get("workload")) == "generate" and pd.notna(new) else row["seq_len"]
        return float(row["batch_size"]) * float(each)

    def text(self, score: float, throughput_rps: float) -> str:
        """The score in words, with the cost of what is served."""
        served = f"{throughput_rps:.1f} requests/s"
        if not math.isfinite(score):
            return served
        if self.tokens or self.weights:
            unit = "weighted tokens/s" if self.tokens and self.weights else "tokens/s" if self.tokens else "weighted/s"
            said = f"{score:,.1f} {unit} ({served})"
        else:
            said = f"normalized progress {score:.2f} ({served})"
        if self.cost_per_hour:
            counted = score if self.tokens or self.weights else throughput_rps
            unit = "tokens" if self.tokens else "weighted requests" if self.weights else "requests"
            said += f", {rounded(self.cost_per_hour / 3600 / counted * 1e6, 3)} a million {unit}"
        return said


PROGRESS = Objective()
"""Normalized progress: no weights."""


def weights_of(texts: list[str]) -> dict[str, float]:
    """``["bert_base=2", "gpt2=1"]`` as a mapping.

    Raises:
        DataError: One is not that.
    """
    found: dict[str, float] = {}
    for part in (part for text in texts for part in text.split(",") if part):
        model, _, value = (side.strip() for side in part.partition("="))
        found[model] = _positive(f"--weight {part}", value, "MODEL=NUMBER above 0, e.g. bert_base=2")
    return found


def read_targets(path: Path) -> tuple[dict[str, float], dict[str, float], float | None]:
    """Service levels (ms), weights and the percentile of a target file (YAML or JSON)::

        percentile: 99
        models:
          bert_base: {slo_ms: 20, weight: 2}
          mistral_7b: {slo_ms: 100}

    Raises:
        DataError: It cannot be read, or says something else.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise DataError(f"--targets {path}: cannot be read: {' '.join(str(error).split())}") from error
    allowed = "models: MODEL: {slo_ms: MILLISECONDS, weight: NUMBER}, and percentile: NUMBER"
    if not isinstance(found, dict) or not isinstance(found.get("models"), dict) or not found["models"]:
        raise DataError(f"--targets {path}: allowed: {allowed}")
    if unknown := [str(key) for key in found if key not in _TARGET_KEYS]:
        raise DataError(f"--targets {path}: {unknown[0]} is not a key; allowed: {', '.join(_TARGET_KEYS)}")
    levels: dict[str, float] = {}
    weights: dict[str, float] = {}
    for model, own in found["models"].items():
        if not isinstance(own, dict) or (set(map(str, own)) - set(_MODEL_KEYS)):
            raise DataError(f"--targets {path}: models.{model}={own}: allowed: {', '.join(_MODEL_KEYS)}")
        for name, into in (("slo_ms", levels), ("weight", weights)):
            if name in own:
                into[str(model)] = _positive(f"--targets {path}: models.{model}.{name}", own[name], "a number above 0")
    percentile = found.get("percentile")
    if percentile is not None:
        percentile = _positive(f"--targets {path}: percentile", percentile, "a number, e.g. 99")
    return levels, weights, percentile


def _positive(what: str, value: object, allowed: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise DataError(f"{what}={value}: allowed: {allowed}" if "=" not in what else f"{what}: allowed: {allowed}")
    return number
