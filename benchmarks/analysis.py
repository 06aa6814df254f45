"""What comes after the runs: bootstrap of 48 tenants, overlap of a million kernels, report of a hundred runs.

The control is a fixed piece of work beside every repeat: its spread is that of the machine.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks import common


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=5)
    made.add_argument("--kernels", type=int, default=0, help="of the capture; default 1000000, with --quick 100000")
    made.add_argument("--runs", type=int, default=0, help="of the report; default 100, with --quick 10")
    made.add_argument("--images", action="store_true", help="with the PNG and SVG files")
    return made


def main() -> None:
    options = arguments().parse_args()
    kernels = options.kernels or (100_000 if options.quick else 1_000_000)
    runs = options.runs or (10 if options.quick else 100)
    report = common.Report("analysis")
    with common.scratch() as folder:
        capture, records = folder / "capture.sqlite", folder / "records"
        make_capture(capture, kernels)
        made = make_records(records, runs)
        found = common.interleaved(
            {
                "bootstrap": lambda: {n: bootstrap_s(48, n) for n in (100, 1000)},
                "summary": lambda: summary_s(48, 1000),
                "overlap": lambda: common.in_child(_overlap, str(capture)),
                "report": lambda: report_s(records, folder / "report", images=options.images),
                "control": common.fixed_work_s,
            },
            common.repeats_of(options),
        )
    for count in (100, 1000):
        name = f"bootstrap, 48 tenants x {count}, 10,000 draws"
        report.add(name, [f[count] for f in found["bootstrap"]], "s", "<= 2")
    report.add("whole summary of a run, 48 tenants x 1000, 10,000 draws", found["summary"], "s")
    report.add(f"overlap of {kernels} kernels", [f["seconds"] for f in found["overlap"]], "s", "<= 10 for 1,000,000")
    report.add("... peak memory of the process", [f["peak_mib"] for f in found["overlap"]], "MiB", "<= 2048")
    report.add(f"report of {made} runs (whole command)", found["report"], "s", "<= 30 for 100")
    report.add("control: fixed work", found["control"], "s")
    report.show()


def bootstrap_s(tenants: int, iterations: int) -> float:
    """Seconds for the intervals of STP, ANTT, Jain, fairness and every tenant, each with a baseline of its own."""
    from mtexp.metrics.bootstrap import interference_intervals
    from mtexp.metrics.window import Series

    rng = np.random.default_rng(0)
    shared = [Series.closed(rng.lognormal(2, 0.1, iterations)) for _ in range(tenants)]
    alone = [Series.closed(rng.lognormal(1, 0.1, iterations)) for _ in range(tenants)]
    return common.seconds(lambda: interference_intervals(shared, alone))


def summary_s(tenants: int, iterations: int) -> float:
    """Seconds for all figures of a run, percentile intervals included."""
    from mtexp.metrics.summary import Baseline, Measured, summarise_run
    from mtexp.metrics.window import Series, common_window
    from mtexp.testing.records import example

    _, samples = example(("bert_base",) * tenants, iterations=iterations)
    rng = np.random.default_rng(0)
    measured = {
        name: Measured(samples=s, alone=Baseline(Series.closed(rng.lognormal(1, 0.1, iterations))))
        for name, s in samples.items()
    }
    return common.seconds(lambda: summarise_run(measured, common_window(list(samples.values()))))


def make_capture(path: Path, kernels: int, processes: int = 4) -> None:
    """Write an nsys SQLite export of made-up kernels."""
    rng = np.random.default_rng(0)
    start_ns = np.sort(rng.integers(0, kernels * 5_000, kernels))
    end_ns = start_ns + rng.integers(1_000, 20_000, kernels)
    pid = (1000 + rng.integers(0, processes, kernels)) << 24
    name = rng.integers(1, 200, kernels)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(i, f"kernel_{i}") for i in range(1, 200)])
        db.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL "
            "(start INTEGER, end INTEGER, globalPid INTEGER, shortName INTEGER, demangledName INTEGER)"
        )
        rows = np.column_stack([start_ns, end_ns, pid, name, name]).tolist()
        db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?, ?)", rows)


def _overlap(capture: str) -> dict[str, float]:
    from mtexp.profiling.kernels import read_nsys_sqlite
    from mtexp.profiling.overlap import measure_overlap

    took_s = common.seconds(lambda: json.dumps(measure_overlap(read_nsys_sqlite(capture)).to_json()))
    return {"seconds": took_s, "peak_mib": common.memory_mib()}


def make_records(folder: Path, runs: int) -> int:
    """Write records of about ``runs`` runs of made-up pairs and their baselines; return how many mixes there are."""
    from tests.analysis.analysis_study import ALONE_MS, Study

    study = Study(folder)
    models = [name for name in ALONE_MS if not name.startswith("stress")]
    pairs = [(first, second) for first in models for second in models]
    made = 0
    while made < runs:
        for mps in ("disabled", "default"):
            for pair in pairs:
                if made < runs:
                    made += len(study.run(pair, mps))
    return made


def report_s(records: Path, out: Path, *, images: bool) -> float:
    """Seconds of ``python -m analysis.report``."""
    argv = [sys.executable, "-m", "analysis.report", "--records", str(records), "--out", str(out), "--no-mlflow"]
    return common.seconds(
        lambda: subprocess.run([*argv, *([] if images else ["--no-images"])], cwd=common.ROOT, check=True, stdout=-3)
    )


if __name__ == "__main__":
    main()
