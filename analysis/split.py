"""Which SMs each tenant of a mix should get: ``python -m analysis.split bert_base+mistral_7b --level bert_base=5``.

Lives here: :func:`best_splits` and the command. May touch: what :func:`analysis.data.load` does, standard output; with
``--measure`` it runs the best splits and what they are compared with. Latencies come from SM curves
(:mod:`analysis.sm_curve`), times what neighbours cost in the splits of these models that were measured. Progress is
against the model alone on the whole device where a run of the mix has it, else on the most SMs of its curve; a split
is best that keeps every level with the highest STP.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from mtexp.commands import COMMANDS, command_line
from mtexp.metrics.latency import min_iterations
from mtexp.output import enter, say
from mtexp.signals import cause, in_turn
from mtexp.text_tables import about, counted

from .dataset import DataError, Dataset, column
from .formats import add_formats, shown
from .frames import rows_of
from .options import add_source, numbers, read, refusing, said_apart
from .pooling import sharing_name
from .predictions import mix_labels
from .sm_curve import GREEN, SmCurve, sm_curves

STEP = 8
"""SMs: partitions are multiples of it."""
_WHOLE_STEP = 16
_ORDER_SEED = 0
_MOST_MODELS = 6
_SHOWN = 12
_ITERATIONS = 700
"""Requests of each tenant of a run that is measured: enough for a p99."""
_EAGER = (
    "In eager mode all tenants wait for one Python interpreter, which curves do not know: for two models on an H200 "
    "they promised an STP of 2.2, and 1.03 was measured. Measure the split, or share the GPU with sharing=processes."
)
_START_S = 10.0
"""About what a run takes besides its requests, on an H200."""


@dataclass(frozen=True, slots=True)
class Split:
    """SMs of each model, and the latencies and rates predicted for them."""

    sms: Mapping[str, int]
    """SMs of each tenant, by model."""
    latency_ms: Mapping[str, float]
    """Mean or p99 latency, as the level asks, by model."""
    stp: float
    kept: bool
    """Every level is."""


def partitions(counts: Sequence[int], total: int) -> Iterator[tuple[int, ...]]:
    """SMs of a tenant of each model, so that no tenant could have more: in steps of 8.

    A driver divides fewer SMs in steps of 8 than in steps of 16: 120 and 128 of 132.

    Args:
        counts: Tenants of each model.
        total: SMs of the device.
    """
    even = total // _WHOLE_STEP * _WHOLE_STEP
    found = set()
    for first in itertools.product(range(STEP, even + 1, STEP), repeat=len(counts)):
        if sum(size * count for size, count in zip(first, counts, strict=True)) <= (
            even if all(size % _WHOLE_STEP == 0 for size in first) else even - STEP
        ):
            found.add(first)
    for one in sorted(found):
        more = (tuple(s + (extra if i == place else 0) for i, s in enumerate(one))
                for place in range(len(one)) for extra in (STEP, _WHOLE_STEP))  # fmt: skip
        if not any(larger in found for larger in more):
            yield one


def best_splits(
    curves: Mapping[str, SmCurve],
    counts: Mapping[str, int],
    levels: Mapping[str, float],
    total: int,
    *,
    beside: Mapping[str, float] | None = None,
    alone: Mapping[str, float] | None = None,
    p99: bool = False,
) -> list[Split]:
    """Candidate splits, the best first: levels kept, then STP.

    Args:
        curves: By model.
        counts: Tenants by model.
        levels: Highest latency in ms by model; a model without one may take any time.
        total: SMs of the device.
        beside: Latency beside neighbours / alone on the same SMs, by model; 1 where it was not measured.
        alone: Mean latency in ms alone on the whole device, by model; on the most SMs of the curves by default.
        p99: Levels are of the p99 latency.
    """
    beside = beside or {}
    alone = alone or {model: curve.points[-1].latency_ms for model, curve in curves.items()}
    found = []
    for sizes in partitions(list(counts.values()), total):
        sms = dict(zip(counts, sizes, strict=True))
        try:
            mean_ms = {m: curves[m].latency_ms(size) * beside.get(m, 1.0) for m, size in sms.items()}
        except ValueError:
            continue  # smaller or larger than what was measured
        shown = {m: ms * curves[m].tail(sms[m]) if p99 else ms for m, ms in mean_ms.items()}
        stp = sum(n * alone[m] / mean_ms[m] for m, n in counts.items())
        kept = all(shown[model] <= level for model, level in levels.items())
        found.append(Split(sms, shown, stp, kept))
    return sorted(found, key=lambda split: (not split.kept, -split.stp))


def measured(data: Dataset, counts: Mapping[str, int], execution: str, *, p99: bool = False) -> pd.DataFrame:
    """Runs of this mix: ``sharing``, SMs and latency of each model, ``stp``; what was measured of any sharing mode.

    Args:
        data: With its runs.
        counts: Tenants by model.
        execution: Of every tenant; the same mix executed otherwise is another one.
        p99: Latencies are p99.

    Returns:
        Also the mean latency of each model (``mean``) and, of sustained runs, of its baseline (``alone``), in ms.
    """
    rows = []
    key = "latency_p99_ms" if p99 else "latency_mean_ms"
    runs = {str(run["record_id"]): run for run in rows_of(data.runs)}
    for record, tenants in data.tenants.groupby("record_id", observed=True, sort=False):
        models = tenants["model"].astype(str)
        if models.value_counts().to_dict() != dict(counts) or str(record) not in runs:
            continue
        if not (tenants["execution"].astype(str) == execution).all():
            continue
        run = runs[str(record)]
        row: dict[str, object] = {"sharing": sharing_name(run), "stp": _whole_stp(run)}
        for model, own in tenants.groupby(models):
            sizes = own.reindex(columns=["partition_sms"])["partition_sms"].dropna()
            row[f"{model} SMs"] = int(sizes.iloc[0]) if len(sizes) and sizes.nunique() == 1 else pd.NA
            row[f"{model} ms"] = float(own[key].mean()) if key in own else math.nan
            row[f"{model} mean"] = float(own["latency_mean_ms"].mean())
            if run.get("design") == "sustained":  # against a baseline on the whole device
                slowdown = own.reindex(columns=["slowdown"])["slowdown"]  # no baselines, no column
                row[f"{model} alone"] = float((own["latency_mean_ms"] / slowdown).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def _whole_stp(run: Mapping[str, Any]) -> float:
    """STP against alone on the whole device; NaN where a run in rounds has only alone in a partition or under MPS."""
    if pd.notna(whole := run.get("stp_whole", math.nan)):
        return float(whole)
    free = run.get("sharing") == "streams" or (run.get("sharing"), run.get("mps_settings")) == ("processes", "disabled")
    stp = run.get("stp", math.nan)
    return float(stp) if pd.notna(stp) and (free or run.get("design") != "crossover") else math.nan


def cost_beside(found: pd.DataFrame, curves: Mapping[str, SmCurve]) -> dict[str, float]:
    """Latency beside neighbours / alone on the same SMs of each model: geometric mean over measured splits."""
    factors = {}
    for model, curve in curves.items():
        logs = []
        for row in rows_of(found):
            sms = row.get(f"{model} SMs")
            if row["sharing"] == GREEN and pd.notna(sms) and curve.points[0].sms <= sms <= curve.most_sms:
                logs.append(math.log(row[f"{model} mean"] / curve.latency_ms(float(sms))))
        if logs:
            factors[model] = math.exp(float(np.mean(logs)))
    return factors


def alone_whole(found: pd.DataFrame, models: Collection[str]) -> dict[str, float]:
    """Mean latency in ms alone on the whole device, by model: geometric mean over runs; empty unless all are known."""
    logs = {m: np.log(found.reindex(columns=[f"{m} alone"])[f"{m} alone"].dropna().astype(float)) for m in models}
    return {m: math.exp(own.mean()) for m, own in logs.items()} if all(map(len, logs.values())) else {}


def repeated(found: pd.DataFrame) -> pd.DataFrame:
    """Runs of the same sharing mode and SMs as one row: means over runs, ``runs``, and the interval of STP over them.

    The interval is Student's, of the logarithm; a single run has none.
    """
    if found.empty:
        return found
    sizes = [name for name in found.columns if name.endswith(" SMs")]
    rows = []
    for key, own in found.groupby(["sharing", *sizes], dropna=False, sort=False):
        row = dict(zip(["sharing", *sizes], key, strict=True))
        row |= {name: own[name].mean() for name in own.columns if name.endswith((" ms", " mean", " alone"))}
        stp = own["stp"].dropna().to_numpy(np.float64)
        row |= {"stp": own["stp"].mean(), "stp_ci_low": math.nan, "stp_ci_high": math.nan, "runs": len(own)}
        if len(stp) > 1:
            logs = np.log(stp)
            reach = float(stdtrit(len(stp) - 1, 0.975)) * float(logs.std(ddof=1)) / math.sqrt(len(stp))
            row |= {f"stp_ci_{end}": math.exp(logs.mean() + sign * reach) for end, sign in (("low", -1), ("high", 1))}
        rows.append(row)
    return pd.DataFrame(rows)


def sms_of(data: Dataset) -> int:
    """SMs of the device that ``data`` was measured on.

    Raises:
        DataError: No run has it, or they have different numbers.
    """
    known = column(data.runs, "gpu_sm_count").dropna().unique()
    if len(known) != 1:
        found = ", ".join(map(str, known)) or "none"
        what = f"number of SMs of the device in its runs: found {found}, allowed: one"
        raise DataError(f"{data.source}: {what}. Name it: --sms 132")
    return int(known[0])


def table(splits: Sequence[Split], found: pd.DataFrame, levels: Mapping[str, float]) -> pd.DataFrame:
    """The best splits, then everything that was measured of the mix, both by levels kept and STP."""
    rows = [
        {
            "how": "predicted",
            "sharing": GREEN,
            **{f"{model} SMs": size for model, size in split.sms.items()},
            **{f"{model} ms": ms for model, ms in split.latency_ms.items()},
            "stp": split.stp,
            "levels": "kept" if split.kept else "missed",
        }
        for split in splits[:_SHOWN]
    ]
    own = []
    for row in rows_of(found):
        kept = all(row[f"{model} ms"] <= level for model, level in levels.items())
        shown = {name: value for name, value in row.items() if not name.endswith((" mean", " alone"))}
        own.append({"how": "measured", **shown, "levels": "kept" if kept else "missed"})
    own.sort(key=lambda row: (row["levels"] != "kept", -row["stp"] if row["stp"] == row["stp"] else 0.0))
    frame = pd.DataFrame([*own, *rows])
    return frame.astype({name: "Int64" for name in frame.columns if str(name).endswith(" SMs") or name == "runs"})


def _shown(frame: pd.DataFrame, kind: str | None) -> str:
    """A table of splits as text; a narrow terminal shows SMs, STP and levels, not what all rows have in common."""
    alike = [name for name in ("how", "sharing") if frame[name].nunique() == 1]
    return shown(frame, kind, [*alike, *reversed([str(name) for name in frame if str(name).endswith(" ms")])])


def counts_of(mix: str) -> dict[str, int]:
    """``bert_base*2+mistral_7b`` as numbers of tenants.

    Raises:
        DataError: It is not that.
    """
    counts = Counter(mix_labels(mix))
    if counts.total() < 2 or len(counts) > _MOST_MODELS:
        raise DataError(f"{mix}: allowed: two tenants or more, of at most {_MOST_MODELS} models")
    return counts


def commands(mix: str, splits: Sequence[Split], execution: str, iterations: int = _ITERATIONS) -> list[list[str]]:
    """What measures ``splits``, equal shares, no partition and time slicing so executed: arguments of ``run``."""
    own = [
        ["sharing=green_contexts", *(f"mix.tenants.{model}.sm_count={size}" for model, size in split.sms.items())]
        for split in splits
    ]
    others = [["sharing=green_contexts"], ["sharing=streams"], ["mps_settings=disabled"]]
    common = [f"mix={mix}", f"execution={execution}", "measure.design=sustained", f"measure.iterations={iterations}"]
    return [[*common, *arguments] for arguments in (*own, *others)]


def in_turns(runs: Sequence[list[str]], repetitions: int) -> list[list[str]]:
    """Every run once a repetition, each repetition in an order of its own: a host that drifts favours none.

    These runs are sustained. In a crossover run a tenant would have its partition in its blocks alone too.
    """
    order = np.random.default_rng(_ORDER_SEED)
    return [
        [*runs[place], f"repetition={number}"]
        for number in range(repetitions)
        for place in order.permutation(len(runs))
    ]


def time_s(splits: Sequence[Split], curves: Mapping[str, SmCurve], counts: Mapping[str, int], iterations: int) -> float:
    """About how long the runs of :func:`commands` take, once each, without baselines.

    A run lasts until its slowest tenant has its requests; without a split, as long as tenants that take turns.
    """
    slowest_ms = [max(curves[model].latency_ms(size) for model, size in split.sms.items()) for split in splits]
    in_turns_ms = sum(count * curves[model].points[-1].latency_ms for model, count in counts.items())
    return sum(_START_S + iterations * ms / 1e3 for ms in (*slowest_ms, *[in_turns_ms] * 3))


def _measure(runs: Sequence[list[str]], seconds: float) -> int:
    """Measure in turns, until Ctrl-C or a signal comes; returns the highest exit code."""
    say(f"Measures {counted(len(runs), 'run')}, {about(seconds)}, and baselines that are missing.\n")
    run = importlib.import_module(COMMANDS["run"].module).main
    codes, code = in_turn(functools.partial(run, argv) for argv in runs)
    if why := cause(code):
        say(f"Interrupted by {why}: {codes.count(0)} of {counted(len(runs), 'run')} measured.\n", error=True)
    return code


def _warn(execution: str, beside: Mapping[str, float]) -> None:
    """Say what curves alone do not know of eager mode; a split that was measured knows it."""
    if execution == "eager" and not beside:
        say(f"warning: {_EAGER}\n", error=True)


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the best splits of a mix; exit code 1 when none keeps every level."""
    parser = argparse.ArgumentParser(prog=command_line("split"), description="Which SMs each tenant should get.")
    parser.add_argument("mix", help="models, e.g. bert_base+mistral_7b; their SM curves must have been measured")
    parser.add_argument("--level", default="", metavar="MODEL=MS,...", help="highest mean latency of a model")
    parser.add_argument("--p99", action="store_true", help="levels are of the p99 latency")
    parser.add_argument("--sms", type=int, help="SMs of the device (default: as its runs say)")
    parser.add_argument(
        "--execution",
        default="cuda_graph",
        choices=("eager", "cuda_graph", "compile"),
        help="of the curves and of the runs (default: %(default)s)",
    )
    parser.add_argument("--measure", type=int, default=0, metavar="N", help="measure the best N; needs the GPU")
    parser.add_argument(
        "--repetitions", type=int, default=3, help="how often, each time in another order (default: %(default)s)"
    )
    parser.add_argument(
        "--iterations",
        type=int,
        default=_ITERATIONS,
        help="requests of each tenant in a run that is measured; fewer take less time (default: %(default)s)",
    )
    add_source(parser, positional=False)
    add_formats(parser)
    options = parser.parse_args(arguments)
    enough = min_iterations(99 if options.p99 else 50)
    for name, least in (("measure", 0), ("repetitions", 1), ("iterations", enough)):
        if getattr(options, name) < least:
            raise DataError(f"--{name} {getattr(options, name)}: allowed: {least} or more")
    counts = counts_of(options.mix)
    levels = numbers("--level", options.level, "MODEL=MILLISECONDS, e.g. bert_base=5")
    if unknown := [model for model in levels if model not in counts]:
        raise DataError(f"--level {', '.join(unknown)}: allowed: models of the mix, {', '.join(counts)}")
    data = read(options, include_invalid=False)
    known = [c for c in sm_curves(data) if c.sharing == GREEN and c.setting.get("execution") == options.execution]
    curves = {curve.model: curve for curve in known if curve.model in counts}
    if lacking := [model for model in counts if model not in curves]:
        how = f"+experiment=sm_curve execution={options.execution} mix={','.join(lacking)}"
        remedy = f"Measure them:\n{command_line('run')} -m {how}"
        raise DataError(f"no SM curve ({options.execution}) of {', '.join(lacking)} in {data.source}. {remedy}")
    found = repeated(measured(data, counts, options.execution, p99=options.p99))
    total = options.sms or sms_of(data)
    beside = cost_beside(found, curves)
    _warn(options.execution, beside)
    alone = alone_whole(found, counts)
    splits = best_splits(curves, counts, levels, total, beside=beside, alone=alone, p99=options.p99)
    if not splits:
        raise DataError(f"{options.mix} does not fit {total} SMs in the sizes that the curves have")
    if not (options.measure and options.format):  # another program reads one table
        sys.stdout.write(_shown(table(splits, found, levels), options.format))
    chosen = splits[: options.measure or 3]
    to_run = commands(options.mix, chosen, options.execution, options.iterations)
    if options.measure:
        seconds = options.repetitions * time_s(chosen, curves, counts, options.iterations)
        with said_apart(options):
            code = _measure(in_turns(to_run, options.repetitions), seconds)
        found = repeated(measured(read(options, include_invalid=False), counts, options.execution, p99=options.p99))
        if not found.empty:
            sys.stdout.write(_shown(table([], found, levels), options.format))
        return code
    if not options.format:
        said = ", ".join(f"{model} {factor:.2f}" for model, factor in beside.items()) or "1 (no split was measured)"
        say(f"Latency beside neighbours / alone on the same SMs: {said}.\n")
        where = "the whole device" if alone else "the most SMs of its curve"
        say(f"Predicted STP is against each model alone on {where}. To measure the best:\n")
        sys.stdout.writelines(f"{command_line('run')} {' '.join(argv)}\n" for argv in to_run)
    return 0 if splits[0].kept else 1


if __name__ == "__main__":
    sys.exit(enter(main))
