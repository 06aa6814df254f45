"""How far fresh runs of one point lie apart, by design, and how long a design takes to decide a pair to +-5 %.

Cases take turns until the time is up: each pair of models under each sharing mode, measured by

- ``separate``: both models alone and then the mix, each in fresh processes (``baseline.max_age_h=0``);
- ``sustained``: the mix in fresh processes, against baselines that were measured once, as a sweep does it;
- ``crossover``: alone and together in turns, in the same processes.

For each tenant the spread is the SD of the logarithm of its slowdown over the repeats. Runs of that spread are needed
(1.96 SD / log 1.05)^2 times, at least once, for +-5 %; times the seconds of one. For crossover there is also the share
of the runs whose own interval holds the mean of the others. Every run is a line of ``--out`` as it ends, so nothing is
lost when the benchmark is cut off: ``--from FILE`` makes the table of such a file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import common

PAIRS = ("bert_base+llama_3_2_1b", "llama_3_2_1b+mistral_7b")
MODES = ("disabled", "default")
DESIGNS: dict[str, dict[str, Any]] = {
    "separate": {"measure.design": "sustained", "baseline.max_age_h": 0},
    "sustained": {"measure.design": "sustained"},
    "crossover": {"measure.design": "crossover"},
}
_DECIDED = math.log(1.05)
_REACH = {"eager": ("<= 0.05", "<= 0.08"), "cuda_graph": ("<= 0.005", "<= 0.005")}
"""Of crossover: median and largest spread over pairs, modes and tenants."""


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=8, gpu=True)
    made.add_argument("--budget-s", type=float, default=3000.0, help="start no run after so many seconds; default 3000")
    made.add_argument("--execution", default="eager", help="eager (default), cuda_graph, or both with a comma")
    made.add_argument("--max-time-s", type=float, default=15.0, help="measure.max_time_s of crossover; default 15")
    made.add_argument("--designs", default=",".join(DESIGNS), help="some of separate,sustained,crossover")
    made.add_argument("--pairs", default=",".join(PAIRS), help=f"mixes on a GPU; default {','.join(PAIRS)}")
    made.add_argument("--iterations", type=int, default=100, help="measure.iterations; default 100")
    made.add_argument("--out", type=Path, default=Path("designs.jsonl"), help="a line a run; default designs.jsonl")
    made.add_argument("--from", dest="measured", type=Path, help="measure nothing; the table of such a file")
    return made


def main() -> None:
    options = arguments().parse_args()
    report = common.Report("designs")
    if options.measured is None:
        runs = _measured(options, report)
    else:
        runs = [json.loads(line) for line in options.measured.read_text(encoding="utf-8").splitlines()]
    for run in runs:
        if not run["slowdown"]:
            report.remarks.append(f"{_name(run)} does not count: {run['why_not']}")
    names = dict.fromkeys(_name(run) for run in runs)
    found = {name: [run for run in runs if _name(run) == name and run["slowdown"]] for name in names}
    spreads: dict[tuple[str, str], list[float]] = {}
    for name, own in found.items():
        if len(own) > 1:
            spreads.setdefault((own[0]["execution"], own[0]["design"]), []).extend(_add(report, name, own))
    for (execution, design), values in spreads.items():
        targets = _REACH[execution] if design == "crossover" else ("", "")
        cells = f"{len(values)} slowdowns, {execution}, {design}: SD of log slowdown between fresh runs"
        report.add(f"{cells}, median", statistics.median(values), "", targets[0])
        report.add(f"{cells}, largest", max(values), "", targets[1])
    report.show()


def _measured(options: argparse.Namespace, report: common.Report) -> list[dict[str, Any]]:
    """Measure until the time is up; every run, in order."""
    out, runs = options.out.resolve(), []
    with common.scratch() as folder:
        os.chdir(folder)
        begin = time.monotonic()
        for case in _turns(options):
            if time.monotonic() - begin > options.budget_s:
                report.remarks.append(f"the time of {options.budget_s:g} s was up")
                break
            run = _measure(options, *case)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            common.note(" ".join(f"{key}={value}" for key, value in run.items() if not isinstance(value, dict)))
            common.note(f"  {run['slowdown']}")
            runs.append(run)
        os.chdir(common.ROOT)
    return runs


def _name(run: dict[str, Any]) -> str:
    return " ".join(run[key] for key in ("pair", "mode", "execution", "design"))


def _turns(options: argparse.Namespace) -> Iterator[tuple[int, str, str, str, str]]:
    """Repeat, pair, mode, execution, design; each repeat in another order."""
    pairs, modes = (options.pairs.split(","), MODES) if options.gpu else (["bert_base+llama_3_2_1b"], ("disabled",))
    kinds = [(e, d) for e in options.execution.split(",") for d in options.designs.split(",")]
    cases = [(pair, mode, *kind) for kind in kinds for pair in pairs for mode in modes]
    for repeat in range(common.repeats_of(options)):
        shift = repeat % len(cases)
        yield from ((repeat, *case) for case in cases[shift:] + cases[:shift])


def _measure(
    options: argparse.Namespace, repeat: int, pair: str, mode: str, execution: str, design: str
) -> dict[str, Any]:
    """One fresh run; slowdowns by tenant, empty where it failed or was INVALID."""
    import mtexp
    from mtexp.errors import MtexpError

    overrides: dict[str, Any] = {"tracking": "none", "mps_settings": mode, **DESIGNS[design]}
    if options.gpu:
        overrides |= {"runtime": "gpu", "execution": execution, "measure.iterations": options.iterations}
    else:
        overrides |= dict(text.split("=") for text in common.SMALL)
    if design == "crossover":
        overrides["measure.max_time_s"] = 1.0 if options.quick else options.max_time_s
        overrides["repetition"] = repeat  # another order of blocks and other cores
    begin = time.perf_counter()
    measured: dict[str, Any] = {"pair": pair, "mode": mode, "execution": execution, "design": design}
    slowdown, why = {}, ""
    try:
        result = mtexp.run(pair, **overrides)
        if result.verdict == "VALID":
            slowdown = {tenant.id: _of(tenant.metrics) for tenant in result.record.tenants}
        else:
            why = result.findings[0]
        kept = ("stp", "rounds", "half_width_pct", "host_noise_pct", "start_skew_ms", "wall_s")
        measured |= {key: result.metrics[key] for key in kept if key in result.metrics}
        measured["findings"] = [finding.code for finding in result.record.findings]
    except MtexpError as error:
        why = str(error)
    return measured | {"seconds": time.perf_counter() - begin, "why_not": why, "slowdown": slowdown}


def _of(metrics: dict[str, float]) -> list[float]:
    """A slowdown and the ends of its own interval."""
    return [metrics[key] for key in ("slowdown", "slowdown_ci_low", "slowdown_ci_high") if key in metrics]


def _add(report: common.Report, name: str, runs: list[dict[str, Any]]) -> list[float]:
    """Add spread, seconds of a run and of a decision, and whether intervals hold; returns the spread of each tenant."""
    new, spreads = runs[0]["design"] == "crossover", []
    longest = {"eager": "<= 20", "cuda_graph": "<= 8"}[runs[0]["execution"]] if new else ""
    report.add(f"{name}: seconds of a run", [run["seconds"] for run in runs], "s", longest)
    for tenant in runs[0]["slowdown"]:
        intervals = [run["slowdown"][tenant] for run in runs]
        logs = [math.log(interval[0]) for interval in intervals]
        spread = statistics.stdev(logs)
        spreads.append(spread)
        report.add(f"{name}: SD of log slowdown of {tenant}", spread, "")
        needed = max(1.0, (1.96 * spread / _DECIDED) ** 2)
        seconds = needed * statistics.median(run["seconds"] for run in runs)
        report.add(f"{name}: seconds to decide {tenant} to +-5 %", seconds, "s")
        if len(runs) > 2 and all(len(interval) == 3 for interval in intervals):
            held = [_holds(interval, logs[:i] + logs[i + 1 :]) for i, interval in enumerate(intervals)]
            share_pct, target = 100 * statistics.mean(held), "90 to 99" if new else ""
            report.add(f"{name}: intervals of {tenant} that hold the mean of the others", share_pct, "%", target)
    return spreads


def _holds(interval: list[float], others: list[float]) -> bool:
    """Whether the interval of one run, with the error of the mean of the others added, holds that mean."""
    value, low, high = map(math.log, interval)
    half = math.hypot((high - low) / 2, 1.96 * statistics.stdev(others) / math.sqrt(len(others)))
    return abs(value - statistics.mean(others)) <= half


if __name__ == "__main__":
    main()
