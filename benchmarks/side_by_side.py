"""What sharing modes measured side by side say of each other, how sure, and whether idle sets disturb anybody.

Sessions take turns until the time is up; each adds a line to ``--out`` as it ends, so that nothing is lost when the
benchmark is cut off, and ``--from FILE`` makes the table of such a file. Of each pair of models, eager and as graphs:

- ``modes``: time slicing and CUDA MPS side by side. The ratio of STP, its half width, the seconds of a session, and
  the share of the sessions whose interval holds the mean of the others;
- ``same``: time slicing twice, side by side. How often its two halves are called different (expected: 5 %);
Of the first pair and the last execution:

- ``three``: time slicing, MPS and MPS with half of the SMs: two MPS daemons on one device, and what a limit costs;
- ``idle``: lone blocks of one set of processes, with and without an idle MPS set beside it, which comes and goes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import common

PAIRS = ("bert_base+llama_3_2_1b", "llama_3_2_1b+mistral_7b")
MODES = {
    "modes": ["disabled", "default"],
    "same": ["disabled", "disabled"],
    "three": ["disabled", "default", "half"],
    "idle": ["disabled", "default"],
}
TARGET_PCT = {"eager": 3.0, "cuda_graph": 1.0}
_HALF_WIDTH = {"eager": "<= 8", "cuda_graph": "<= 1"}
_ORDER = ("modes", "same", "modes", "same", "idle", "modes", "same", "three", "same")
"""Of the cases; the rarer ones come less often."""
_BLOCKS, _BLOCK_NS = 15, 60_000_000
_IDLE_PHASES = 3


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=100, gpu=True)
    made.add_argument("--seconds", type=float, default=450.0, help="start no session after so many; default 450")
    made.add_argument("--execution", default="eager,cuda_graph", help="default eager,cuda_graph")
    made.add_argument("--pairs", default=",".join(PAIRS), help=f"default {','.join(PAIRS)}")
    made.add_argument("--cases", default=",".join(MODES), help=f"some of {','.join(MODES)}")
    made.add_argument("--max-time-s", type=float, default=15.0, help="measure.max_time_s of each mode; default 15")
    made.add_argument("--out", type=Path, default=Path("side_by_side.jsonl"), help="a line a session")
    made.add_argument("--from", dest="measured", type=Path, help="measure nothing; the table of such a file")
    return made


def main() -> None:
    options = arguments().parse_args()
    report = common.Report("side_by_side")
    if options.measured is None:
        sessions = _measured(options, report)
    else:
        sessions = [json.loads(line) for line in options.measured.read_text(encoding="utf-8").splitlines()]
    for session in sessions:
        if session["why_not"]:
            report.remarks.append(f"{_name(session)} does not count: {session['why_not']}")
    for name in dict.fromkeys(map(_name, sessions)):
        own = [session for session in sessions if _name(session) == name and not session["why_not"]]
        if own:
            _add(report, name, own)
    _add_claims(report, [s for s in sessions if s["case"] == "same" and not s["why_not"]])
    report.show()


def _name(session: dict[str, Any]) -> str:
    return " ".join(session[key] for key in ("case", "pair", "execution"))


def _turns(options: argparse.Namespace) -> Iterator[tuple[int, str, str, str]]:
    """Repeat, case, pair, execution."""
    wanted, pairs = options.cases.split(","), options.pairs.split(",")
    executions = options.execution.split(",")
    if not options.gpu:
        pairs, executions = pairs[:1], ["eager"]
    for repeat in range(common.repeats_of(options)):
        for case in _ORDER if repeat else dict.fromkeys(_ORDER):  # each case once before one comes again
            if case in wanted:
                once = case in ("idle", "three")
                for execution in executions[-1:] if once else executions:
                    yield from ((repeat, case, pair, execution) for pair in (pairs[:1] if once else pairs))


def _measured(options: argparse.Namespace, report: common.Report) -> list[dict[str, Any]]:
    out, sessions = options.out.resolve(), []
    out.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with common.scratch() as folder:
        os.chdir(folder)
        for number, (repeat, *case) in enumerate(_turns(options)):
            if time.monotonic() - begin > options.seconds:
                report.remarks.append(f"the time of {options.seconds:g} s was up")
                break
            sessions.append(_session(options, 1000 * repeat + number, *case))
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(sessions[-1]) + "\n")
            common.note(json.dumps(sessions[-1]))
        os.chdir(common.ROOT)
    return sessions


def _session(options: argparse.Namespace, number: int, case: str, pair: str, execution: str) -> dict[str, Any]:
    begin = time.perf_counter()
    told: dict[str, Any] = {"case": case, "pair": pair, "execution": execution, "why_not": ""}
    overrides: dict[str, Any] = {"repetition": number, "measure.design": "crossover"}
    if options.gpu:
        overrides |= {"runtime": "gpu", "execution": execution}
    else:
        overrides |= dict(text.split("=") for text in common.SMALL)
    overrides["measure.max_time_s"] = 1.0 if options.quick else options.max_time_s
    overrides["measure.target_pct"] = TARGET_PCT[execution]
    try:
        told |= _idle(pair, overrides) if case == "idle" else _side_by_side(case, pair, overrides)
    except Exception as error:  # noqa: BLE001  a session that fails does not cost the others their time
        told["why_not"] = f"{type(error).__name__}: {error}"
    return told | {"seconds": time.perf_counter() - begin}


def _side_by_side(case: str, pair: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """One session by the Python API; figures of each mode against time slicing."""
    import mtexp

    results = mtexp.sweep(
        progress=common.note,
        mix=pair,
        mps_settings=MODES[case],
        tracking="none",
        side_by_side="require",
        sweep_order="written",
        **overrides,
    )
    reference, *others = results
    bad = [
        f"{result.status} {result.verdict}: {result.findings[:1]}" for result in results if result.verdict != "VALID"
    ]
    told: dict[str, Any] = {
        "why_not": "; ".join(bad),
        "findings": {r.record.run_spec.mps_settings: [f.code for f in r.record.findings] for r in results},
        "rounds": reference.metrics.get("rounds"),
        "rounds_s": _rounds_s(reference),
        "reference": _figures(reference.metrics, ("stp",)),
        "wall_s": reference.metrics.get("wall_s"),
    }
    for result in others:
        told[result.record.run_spec.mps_settings if case != "same" else "copy"] = {
            **_figures(result.metrics, ("stp", "stp_ratio", "stp_whole", "stp_whole_ratio")),
            "tenants": {
                tenant.id: _figures(
                    tenant.metrics, ("slowdown", "mode_cost", "slowdown_whole", "latency_ratio", "throughput_ratio")
                )
                for tenant in result.record.tenants
            },
        }
    return told


def _rounds_s(result: Any) -> float | None:
    """Seconds of rounds."""
    blocks = result.record.blocks
    return (blocks[-1].end_ns - blocks[0].start_ns) / 1e9 if blocks else None


def _figures(metrics: dict[str, float], names: tuple[str, ...]) -> dict[str, list[float]]:
    """Each figure with the ends of its interval."""
    ends = ("", "_ci_low", "_ci_high")
    return {name: [metrics[f"{name}{end}"] for end in ends if f"{name}{end}" in metrics] for name in names}


# --- idle sets --------------------------------------------------------------------------------------------------------


def _idle(pair: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Lone blocks of a time-sliced set: alone on the device, beside an idle MPS set, alone again ..."""
    from mtexp.config import compose_spec
    from mtexp.host import cpu_device
    from mtexp.launch import ForkserverStarter, leased_cores
    from mtexp.running.measured import Place
    from mtexp.running.pinning import parent_off_tenant_cores
    from mtexp.running.tenant_set import TenantSet
    from mtexp.sharing import open_sharing
    from mtexp.telemetry import find_devices

    gpu = overrides.get("runtime") == "gpu"
    device = find_devices()[0] if gpu else cpu_device()
    specs = [
        compose_spec(
            [f"mix={pair}", f"mps_settings={mode}", *(f"{key}={value}" for key, value in overrides.items())],
            device if gpu else None,
        )
        for mode in MODES["idle"]
    ]
    starter = ForkserverStarter()
    with ExitStack() as opened:
        cores = opened.enter_context(leased_cores([1] * len(specs[0].tenants)))
        opened.enter_context(parent_off_tenant_cores(cores))

        def started(number: int, place: str) -> TenantSet:
            folder = Path(f"idle-{overrides['repetition']}-{place}").absolute()
            own = TenantSet([Place(specs[number], folder)])
            (folder / "logs").mkdir(parents=True)
            own.sharing = open_sharing(specs[number], device, work_dir=folder)
            opened.push(own.open)
            own.begin(starter)
            own.tenants.start(own.jobs(cores, ""))
            own.tenants.build()
            own.tenants.begin_warm_up()
            own.tenants.warm_up()
            own.tenants.begin_blocks()
            return own

        first = started(0, "active")
        phases: list[tuple[int, int, bool]] = []
        for phase in range(2 * _IDLE_PHASES + 1):
            other = started(1, f"idle-{phase}") if phase % 2 else None
            begun_ns = time.monotonic_ns()
            for number in range(_BLOCKS * len(specs[0].tenants)):
                slot = number % len(specs[0].tenants)
                first.tenants.block((slot,), _BLOCK_NS, {}, [(other.tenants, {})] if other else [])
            phases.append((begun_ns, time.monotonic_ns(), other is not None))
            if other is not None:
                other.tenants.end_blocks()
                other.open.close()
        first.tenants.end_blocks()
        samples = first.tenants.samples()
    return {"ratio": {name: _beside_idle(own, phases) for name, own in samples.items()}}


def _beside_idle(own: Any, phases: list[tuple[int, int, bool]]) -> list[float]:
    """Latency beside an idle set / the mean of the phases before and after it without one, for each."""
    import numpy as np

    logs = []
    for begin_ns, end_ns, _ in phases:
        inside = (own.start_ns >= begin_ns) & (own.start_ns < end_ns)
        logs.append(float(np.log(own.latency_ms[inside]).mean()))
    return [math.exp(logs[i] - (logs[i - 1] + logs[i + 1]) / 2) for i in range(1, len(phases), 2)]


# --- the table --------------------------------------------------------------------------------------------------------


def _add(report: common.Report, name: str, own: list[dict[str, Any]]) -> None:
    report.add(f"{name}: seconds of a session", [session["seconds"] for session in own], "s")
    if own[0]["case"] == "idle":
        for tenant in own[0]["ratio"]:
            changes = [100 * (value - 1) for session in own for value in session["ratio"][tenant]]
            report.add(f"{name}: latency of {tenant} beside an idle set, change", changes, "%")
        return
    report.add(f"{name}: seconds of rounds", [session["rounds_s"] for session in own], "s")
    for mode in (mode for mode in ("default", "half", "copy") if mode in own[0]):
        for key in ("stp_whole_ratio", "stp_ratio"):
            figures = [session[mode][key] for session in own]
            report.add(f"{name}: {key} of {mode}", [figure[0] for figure in figures], "")
            widths = [50 * (high - low) / value for value, low, high in figures]
            target = _HALF_WIDTH[own[0]["execution"]] if own[0]["case"] == "modes" else ""
            report.add(f"{name}: half width of {key} of {mode}", widths, "%", target)
            logs = [math.log(figure[0]) for figure in figures]
            if len(logs) > 2:
                report.add(f"{name}: SD of log {key} of {mode} between sessions", statistics.stdev(logs), "")
                held = [_holds(figure, logs[:i] + logs[i + 1 :]) for i, figure in enumerate(figures)]
                report.add(f"{name}: {key} of {mode} holds the mean of the others", 100 * statistics.mean(held), "%")
        for key in ("mode_cost", "slowdown_whole"):
            for tenant in own[0][mode]["tenants"]:
                values = [session[mode]["tenants"][tenant][key][0] for session in own]
                report.add(f"{name}: {key} of {tenant}, {mode}", values, "x")


def _add_claims(report: common.Report, same: list[dict[str, Any]]) -> None:
    """One mode twice: how often an interval of a ratio does not hold 1."""
    for key in ("stp_ratio", "stp_whole_ratio"):
        figures = [session["copy"][key] for session in same]
        if figures:
            different = sum(not low <= 1 <= high for _, low, high in figures)
            what = f"{len(figures)} sessions of one mode twice: {key} called different"
            report.add(what, 100 * different / len(figures), "%", "<= 5")


def _holds(figure: list[float], others: list[float]) -> bool:
    """Whether an interval, with the error of the mean of the others added, holds that mean."""
    value, low, high = map(math.log, figure)
    half = math.hypot((high - low) / 2, 1.96 * statistics.stdev(others) / math.sqrt(len(others)))
    return abs(value - statistics.mean(others)) <= half


if __name__ == "__main__":
    main()
