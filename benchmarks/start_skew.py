"""How far apart eight tenants leave the barrier, and how much of their measuring time they share.

The control is what one would use instead: spawned processes that leave a ``multiprocessing.Barrier`` and then keep a
core busy, as tenants do. With fewer cores than processes they wait for each other's cores, whoever starts them, and the
control says how long.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from typing import Any

import numpy as np

from benchmarks import common

_BUSY_NS = 50_000_000


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=50, gpu=True)
    made.add_argument("--tenants", type=int, nargs="+", default=[2, 8], help="how many, one after another")
    made.add_argument("--iterations", type=int, default=200, help="of each tenant")
    return made


def main() -> None:
    options = arguments().parse_args()
    runs = options.repeats or (5 if options.quick else 50)
    report = common.Report("start_skew")
    with common.scratch() as folder:
        tenants = common.Tenants(folder)
        for count in options.tenants:
            sizes = [f"mix=bert_base*{count}", f"measure.iterations={options.iterations}"]
            spec, device = common.spec_of(sizes, gpu=options.gpu)
            skews_ms, overlaps_pct = [], []
            for run in range(runs):
                common.note(f"{count} tenants, run {run + 1} of {runs}")
                samples = tenants.measure(spec, device).samples.values()
                skew_ms, share_pct = _of_run(samples)
                skews_ms.append(skew_ms)
                overlaps_pct.append(share_pct)
            controls_ms = barrier_skews_ms(count, runs)
            _add(report, f"{count} tenants, start skew", skews_ms, "<= 1 (p99)")
            _add(report, f"{count} tenants, control: multiprocessing.Barrier", controls_ms)
            report.add(f"{count} tenants, overlap", overlaps_pct, "%", ">= 98")
    report.show()


def _of_run(samples: Any) -> tuple[float, float]:
    from mtexp.metrics.window import common_window, window_share_pct

    every = list(samples)
    starts_ns = [int(s.measured.start_ns.min()) for s in every]
    return (max(starts_ns) - min(starts_ns)) / 1e6, window_share_pct(common_window(every), every)


def _add(report: common.Report, name: str, skews_ms: list[float], target: str = "") -> None:
    report.add(name, skews_ms, "ms")
    report.add(f"{name}, p99", float(np.percentile(skews_ms, 99)), "ms", target)


def barrier_skews_ms(count: int, rounds: int) -> list[float]:
    """Start skew (ms) of ``count`` spawned processes in each of ``rounds`` passages of a barrier."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.SimpleQueue()
    processes = [context.Process(target=_pass_barrier, args=(barrier, results, rounds)) for _ in range(count)]
    for process in processes:
        process.start()
    instants_ns = np.array([results.get() for _ in processes])
    for process in processes:
        process.join()
    skews_ms: list[float] = (np.ptp(instants_ns, axis=0) / 1e6).tolist()
    return skews_ms


def _pass_barrier(barrier: Any, results: Any, rounds: int) -> None:
    instants_ns = []
    for _ in range(rounds):
        barrier.wait()
        instants_ns.append(now_ns := time.monotonic_ns())
        while time.monotonic_ns() < now_ns + _BUSY_NS:
            pass
    results.put(instants_ns)


if __name__ == "__main__":
    main()
