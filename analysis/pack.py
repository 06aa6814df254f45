"""How many GPUs a demand needs, and what each serves: ``python -m analysis.pack --gpus 8 --demand bert_base=900,...``.

Lives here: :func:`pack` and the command. May touch: nothing beyond reading runs. Each GPU gets one configuration: a
model alone, a mix that was measured, or one that was predicted (:mod:`analysis.forecast`). An integer program chooses
how many GPUs get which (scipy's HiGHS: Q. Huangfu, J. A. J. Hall, Mathematical Programming Computation 10, 2018), so
that the answer is optimal for these configurations, or comes with a bound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import Bounds, LinearConstraint, milp

from mtexp.commands import command_line
from mtexp.metrics.latency import percentile_ms, percentile_name
from mtexp.metrics.samples import Floats
from mtexp.output import enter, say
from mtexp.text_tables import rounded

from .advice import plain
from .dataset import DataError
from .forecast import Forecaster, token_of
from .frames import rows_of
from .options import add_source, number, numbers, read, refusing
from .pooling import FEW_DRAWS, Results, pool
from .predictor_data import lone_models

MEASURED, PREDICTED, ALONE = "measured", "predicted", "alone"
_MOST_TENANTS = 4
"""Most tenants of a predicted mix."""
_PREFER = {ALONE: 0.0, MEASURED: 1e-4, PREDICTED: 1e-3}
"""Costs in GPUs that break ties: of configurations that serve the same, the best known one is chosen."""
_OUTSIDE_MPS = {"sharing": "processes", "mps_settings": "disabled"}
_TIME_LIMIT_S = 60.0
_WHOLE = 1e-6


@dataclass(frozen=True, slots=True)
class Configuration:
    """What one GPU can serve."""

    mix: str
    sharing: str
    rates: Mapping[str, float]
    """Requests a second in closed loop, by model."""
    kind: str
    """``alone``, ``measured`` or ``predicted``."""
    risk: float = 0.0
    """Chance that a predicted one misses a level."""


@dataclass(frozen=True, slots=True)
class Placement:
    """So many GPUs with one configuration."""

    count: int
    configuration: Configuration


@dataclass(frozen=True)
class Packing:
    """The answer."""

    placements: tuple[Placement, ...]
    gpus: int
    bound: int
    """No packing of these configurations needs fewer GPUs."""
    one_model_each: int | None
    """GPUs with one model on each; None where a model alone misses its level."""
    served: Mapping[str, float]
    """Requests a second that the placements can serve, by model."""


def pack(configurations: Sequence[Configuration], demand: Mapping[str, float]) -> Packing:
    """The fewest GPUs that serve ``demand``.

    Args:
        configurations: What a GPU can serve.
        demand: Requests a second of each model, above 0.

    Raises:
        DataError: A model is in no configuration, or the solver finds none in its time.
    """
    kept = [one for one in configurations if set(one.rates) <= set(demand)]
    for model in demand:
        if not any(one.rates.get(model, 0) > 0 for one in kept):
            raise DataError(
                f"--demand {model}: no mix and no run of it alone keeps its level, measured or predicted. "
                f"Raise --slo-ms {model}=..., or measure it: {command_line('run')} mix={model}"
            )
    rates = np.array([[one.rates.get(model, 0.0) for one in kept] for model in demand])
    wanted = np.array(list(demand.values()))
    costs = 1 + np.array([_PREFER[one.kind] for one in kept])
    found = milp(
        costs,
        constraints=LinearConstraint(rates, wanted * (1 - _WHOLE), np.inf),
        integrality=np.ones(len(kept)),
        bounds=Bounds(0, np.inf),
        options={"time_limit": _TIME_LIMIT_S},
    )
    if found.x is None:
        raise DataError(f"no packing was found: {found.message}")
    counts = np.rint(found.x).astype(int)
    total = int(counts.sum())
    least = found.mip_dual_bound / float(costs.max()) if found.mip_dual_bound is not None else 0.0
    placements = [Placement(int(count), one) for count, one in zip(counts, kept, strict=True) if count]
    placements.sort(key=lambda one: (-one.count, one.configuration.mix))
    return Packing(
        tuple(placements),
        total,
        total if found.status == 0 else math.ceil(least - _WHOLE),
        _one_model_each(kept, demand),
        dict(zip(demand, map(float, rates @ counts), strict=True)),
    )


def _one_model_each(configurations: Sequence[Configuration], demand: Mapping[str, float]) -> int | None:
    total = 0
    for model, wanted in demand.items():
        alone = [one.rates[model] for one in configurations if one.kind == ALONE and model in one.rates]
        if not alone:
            return None
        total += math.ceil(wanted / max(alone) * (1 - _WHOLE))
    return total


def configurations(
    results: Results, slo_ms: Mapping[str, float], percentile: float, *, risk: float, headroom: float
) -> list[Configuration]:
    """What one GPU can serve with every level kept: models alone, measured mixes, predicted mixes.

    Args:
        results: What was measured.
        slo_ms: Service level of each model.
        percentile: Of latency, in percent, that is compared with them.
        risk: Most chance of missing a level that a predicted mix may have; 0 = none is predicted.
        headroom: Share of the closed-loop rate that is not counted on: at 1 - 0 queues have no end.
    """
    share = 1 - headroom
    found = [*_alone(results, slo_ms, percentile, share), *_measured(results, slo_ms, percentile, share)]
    if risk <= 0:
        return found
    there = {(tuple(sorted(models)), sharing) for models, sharing in zip(*_points(results), strict=True)}
    forecaster = Forecaster(results, slo_ms, percentile)
    for mode in forecaster.modes:
        for count in range(2, _MOST_TENANTS + 1):
            for labels in itertools.combinations_with_replacement(sorted(slo_ms), count):
                one = None if (labels, mode) in there else forecaster.forecast(labels, mode)
                if one is not None and one.risk <= risk:
                    rates = {model: rate * share for model, rate in one.rates.items()}
                    found.append(Configuration(one.mix, mode, rates, PREDICTED, one.risk))
    return found


def _points(results: Results) -> tuple[list[tuple[str, ...]], list[str]]:
    return results.points["models"].tolist(), results.points["sharing"].tolist()


def _alone(results: Results, slo_ms: Mapping[str, float], percentile: float, share: float) -> list[Configuration]:
    labels = {lone.label for lone in lone_models(results).values()}
    found: dict[str, Floats] = {}
    runs = results.alone.runs
    for name, own in results.alone.groups.items():
        row = rows_of(runs[runs["group"] == name].head(1))[0]
        model = str(row["model"])
        usual = (row["workload"] == "forward" and row["execution"] == "eager") or model in labels
        if model not in slo_ms or model in found or not usual or str(row.get("arrival", "closed")) != "closed":
            continue
        found[model] = np.concatenate([np.empty(0), *results.data.latencies_ms(own)])
    found = _in_rounds(results) | found
    return [
        Configuration(model, "alone", {model: share * 1e3 / float(latency_ms.mean())}, ALONE)
        for model, latency_ms in found.items()
        if model in slo_ms and latency_ms.size and percentile_ms(latency_ms, percentile) <= slo_ms[model]
    ]


def _in_rounds(results: Results) -> dict[str, Floats]:
    """Latencies of models in the blocks in which they ran alone, outside MPS."""
    usual = {record for point in rows_of(results.points) if plain([point]) for record in point["records"]}
    wanted = {
        (str(row["record_id"]), str(row["tenant"])): str(row["model"])
        for row in rows_of(results.data.tenants.reindex(columns=["record_id", "tenant", "model", *_OUTSIDE_MPS]))
        if row["record_id"] in usual and {name: str(row[name]) for name in _OUTSIDE_MPS} == _OUTSIDE_MPS
    }
    alone = results.data.counted()
    alone = alone[alone["phase"] == "alone"]
    models = pd.Series(
        [wanted.get(own) for own in zip(alone["record_id"], alone["tenant"], strict=True)], alone.index, dtype=object
    )
    return {str(model): own.to_numpy(np.float64) for model, own in alone["latency_ms"].groupby(models)}


def _measured(results: Results, slo_ms: Mapping[str, float], percentile: float, share: float) -> list[Configuration]:
    by_point = dict(list(results.tenants.groupby("point", observed=True))) if len(results.tenants) else {}
    found = []
    for point in rows_of(results.points):
        if not set(point["models"]) <= set(slo_ms) or not plain([point]) or point["num_tenants"] < 2:
            continue
        rates: dict[str, float] = {}
        for row in rows_of(by_point[point["point"]]):
            runs = zip(row["records"], row["ids"], strict=True)
            latency_ms = np.concatenate([np.empty(0), *results.data.latencies_ms(runs)])
            if not latency_ms.size or percentile_ms(latency_ms, percentile) > slo_ms[str(row["model"])]:
                break
            model = str(row["model"])
            rates[model] = rates.get(model, 0.0) + share * float(row["throughput_rps"])
        else:
            found.append(Configuration(token_of(point["models"]), str(point["sharing"]), rates, MEASURED))
    return found


# --- command ----------------------------------------------------------------------------------------------------------


def text(found: Packing, demand: Mapping[str, float], gpus: int, percentile: float, headroom: float) -> str:
    """The packing in words."""
    optimal = "the fewest" if found.bound >= found.gpus else f"at least {found.bound} are needed"
    lines = [f"{found.gpus} GPUs serve the demand, {optimal} with these mixes ({gpus} are there)."]
    for one in found.placements:
        at = one.configuration
        rates = ", ".join(
            f"{model} {'~' if at.kind == PREDICTED else ''}{rounded(rate, 4)}/s" for model, rate in at.rates.items()
        )
        how = "alone" if at.kind == ALONE else f"under {at.sharing}, {at.kind}"
        most = f"at most {100 * at.risk:.0f} %" if at.risk >= 0.005 else "below 1 %"
        risk = f", risk of missing a level {most}" if at.kind == PREDICTED else ""
        lines.append(f"  {one.count} x {at.mix} {how}: {rates}{risk}")
    served = (f"{model} {rounded(rate, 4)} of {rounded(found.served[model], 4)}/s" for model, rate in demand.items())
    lines.append(f"Demand and what is served: {', '.join(served)}.")
    each = (
        f"{found.one_model_each} GPUs"
        if found.one_model_each is not None
        else "not possible, a model alone misses its level or was not measured"
    )
    lines.append(f"With one model a GPU: {each}.")
    if found.gpus > gpus:
        lines.append(f"{gpus} GPUs are {found.gpus - gpus} too few.")
    lines.append(
        f"Judged by {percentile_name(percentile)} of closed-loop latency; {100 * headroom:g} % of a rate stays free. "
        "A request is a batch as measured."
    )
    if any(one.configuration.kind == PREDICTED for one in found.placements):
        lines.append("Predicted mixes were not measured: confirm each before you rely on it.")
    return "\n".join(lines) + "\n"


def as_json(found: Packing, demand: Mapping[str, float], gpus: int) -> dict[str, Any]:
    """The packing for other programs."""
    return {
        "gpus": found.gpus,
        "bound": found.bound,
        "fits": found.gpus <= gpus,
        "one_model_each": found.one_model_each,
        "demand_rps": dict(demand),
        "served_rps": dict(found.served),
        "placements": [
            {
                "count": one.count,
                "mix": one.configuration.mix,
                "sharing": one.configuration.sharing,
                "kind": one.configuration.kind,
                "risk": one.configuration.risk,
                "rates_rps": dict(one.configuration.rates),
            }
            for one in found.placements
        ],
    }


def _positive(option: str, found: Mapping[str, float], example: str) -> None:
    if not found:
        raise DataError(f"{option} is empty; give e.g. {example}")
    for model, value in found.items():
        if not 0 < value < math.inf:
            raise DataError(f"{option} {model}={value:g}: allowed: a number above 0, e.g. {example}")


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the packing; exit code 1 if the demand needs more GPUs than there are, 2 without enough data."""
    parser = argparse.ArgumentParser(prog=command_line("pack"), description="Which GPU serves what.")
    parser.add_argument("--gpus", type=int, required=True, help="how many there are")
    parser.add_argument("--demand", required=True, metavar="MODEL=RATE,...", help="requests a second of each model")
    parser.add_argument("--slo-ms", required=True, metavar="MODEL=MS,...", help="service level of each model")
    parser.add_argument("--percentile", default="90", metavar="P", help="of latency, to judge by (default: 90)")
    parser.add_argument(
        "--risk", default="10", metavar="PCT", help="most risk of a predicted mix (default: 10; 0 = none)"
    )
    parser.add_argument(
        "--headroom", default="20", metavar="PCT", help="share of each rate that stays free (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_source(parser, positional=False)
    options = parser.parse_args(arguments)
    demand = numbers("--demand", options.demand, "MODEL=REQUESTS a second above 0, e.g. bert_base=900")
    levels = numbers("--slo-ms", options.slo_ms, "MODEL=MILLISECONDS above 0, e.g. bert_base=20")
    _positive("--demand", demand, "bert_base=900")
    _positive("--slo-ms", levels, "bert_base=20")
    if differ := sorted(set(demand) ^ set(levels)):
        raise DataError(f"--demand and --slo-ms must name the same models; only one has {', '.join(differ)}")
    if options.gpus < 1:
        raise DataError(f"--gpus {options.gpus}: allowed: 1 or more")
    percentile = number(f"--percentile {options.percentile}", options.percentile, "from 50 to below 100, e.g. 99")
    risk = number(f"--risk {options.risk}", options.risk, "percent from 0 to 50, e.g. 10")
    headroom = number(f"--headroom {options.headroom}", options.headroom, "percent from 0 to below 100, e.g. 20")
    if not (50 <= percentile < 100 and 0 <= risk <= 50 and 0 <= headroom < 100):
        raise DataError(
            f"--percentile {percentile:g} --risk {risk:g} --headroom {headroom:g}: allowed: 50 to below 100, 0 to 50, "
            "0 to below 100"
        )
    results = pool(read(options, include_invalid=False), draws=FEW_DRAWS)
    known = {str(model) for model in results.alone.runs.reindex(columns=["model"])["model"]}
    known |= {model for models in results.points["models"] for model in models}
    if unknown := [model for model in demand if model not in known]:
        raise DataError(f"--demand {', '.join(unknown)}: not measured. There are {', '.join(sorted(known))}")
    choices = configurations(results, levels, percentile, risk=risk / 100, headroom=headroom / 100)
    found = pack(choices, demand)
    if options.json:
        sys.stdout.write(json.dumps(as_json(found, demand, options.gpus), indent=1) + "\n")
    else:
        say(text(found, demand, options.gpus, percentile, headroom / 100))
    return 0 if found.gpus <= options.gpus else 1


if __name__ == "__main__":
    sys.exit(enter(main))
