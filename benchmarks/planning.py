"""Sweeps too long to watch: ten thousand points planned, and the parent's memory over many points.

Planning composes, converts and checks every point; the control is a tenth of the points, so that growth faster than
their number shows. Memory is that of the process that runs a whole sweep, read at the end of every point.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks import common
from benchmarks.point_overhead import RUN

_SETTLED = 0.2
"""Share of the points after which memory is expected to be flat: imports and first batches come before."""


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3)
    made.add_argument("--points", type=int, default=0, help="planned; default 10000, with --quick 1000")
    made.add_argument("--run-points", type=int, default=0, help="run for memory; default 500, with --quick 8")
    return made


def main() -> None:
    options = arguments().parse_args()
    points = options.points or (1_000 if options.quick else 10_000)
    report = common.Report("planning")
    found = common.interleaved(
        {
            "all": lambda: common.in_child(_plan, points),
            "a tenth": lambda: common.in_child(_plan, points // 10),
            "control": lambda: {"seconds": common.fixed_work_s(), "peak_mib": 0.0},
        },
        common.repeats_of(options),
    )
    took_s = {name: [f["seconds"] for f in figures] for name, figures in found.items()}
    report.add(f"{points} points planned", took_s["all"], "s", "<= 60 for 10,000")
    report.add("... peak memory of the process", [f["peak_mib"] for f in found["all"]], "MiB")
    report.add(f"control: {points // 10} points planned", took_s["a tenth"], "s")
    report.ratio("all / a tenth", took_s["all"], took_s["a tenth"], "<= 10: linear")
    report.add("control: fixed work", took_s["control"], "s")
    with common.scratch() as folder:
        _tell_memory(report, parent_memory_mib(folder, options.run_points or (8 if options.quick else 500)))
    report.show()


def _plan(points: int) -> dict[str, float]:
    from mtexp.config.plan import plan

    mixes = "bert_base,llama_3_2_1b,bert_base+llama_3_2_1b,bert_base*2,mixed"
    argv = ["-m", "runtime=cpu", f"mix={mixes}", "precision=fp16,bf16"]
    argv += [f"measure.iterations={','.join(str(700 + i) for i in range(points // 10))}"]
    planned = []
    took_s = common.seconds(lambda: planned.append(plan(argv)))
    assert len(planned[0].points) == points
    return {"seconds": took_s, "peak_mib": common.memory_mib()}


def parent_memory_mib(folder: Path, points: int) -> list[float]:
    """Resident memory of the process of a sweep at the end of each of its points."""
    sizes = [*common.SMALL, "workload.seq_len=8", "measure.iterations=20", "measure.warmup=1", "baseline=skip"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*RUN, "-m", *sizes, "mix=bert_base", f"repetitions={points}", "sweep=memory"],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    parent = psutil.Process(process.pid)
    found: list[float] = []
    while process.poll() is None:
        done = len(list((folder / "multirun" / "memory").glob("*/job.json")))
        if done > len(found):
            found.append(parent.memory_info().rss / 2**20)
            if done % 20 == 0:
                common.note(f"{done} points, {found[-1]:.0f} MiB")
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError((folder / "log").read_text()[-2000:])
    return found


def _tell_memory(report: common.Report, found: list[float]) -> None:
    settled = np.array(found[max(1, int(_SETTLED * len(found))) :])
    report.add(f"parent after each of {len(found)} points", found, "MiB")
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0]) if len(settled) > 2 else 0.0
    report.add("... growth a point, once settled", slope * 1024, "KiB", "flat")


if __name__ == "__main__":
    main()
