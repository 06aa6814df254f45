"""A point of two tenants with mtexp, and with the script one would write: processes, ``log_metric`` in the loop.

Seconds a point, the whole command each, and what happens to the latency inside: each against the same script without
any tracking. That script once more is the control.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import common, plain
from benchmarks.point_overhead import RUN


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=5, gpu=True)
    made.add_argument("--iterations", type=int, default=0, help="of each tenant; default 700, with --quick 200")
    return made


def main() -> None:
    options = arguments().parse_args()
    iterations = options.iterations or (200 if options.quick else 700)
    report = common.Report("versus_script")
    with common.scratch() as folder:
        point = Point(folder, iterations, gpu=options.gpu)
        cases: dict[str, Callable[[], dict[str, float]]] = {
            "script, no tracking": lambda: point.script(""),
            "script, log_metric": lambda: point.script(point.uri),
            "mtexp, one command": point.mtexp,
            "script, no tracking, again": lambda: point.script(""),
        }
        point.mtexp()  # makes the store, which none of the cases should pay for
        found = common.interleaved(cases, common.repeats_of(options))
    for name, figures in found.items():
        report.add(f"{name}: wall", [f["wall_s"] for f in figures], "s")
    for statistic in ("p50", "p99"):
        base = [f[statistic] for f in found["script, no tracking"]]
        report.add(f"script, no tracking: {statistic}", base, "ms")
        for name in ("script, log_metric", "mtexp, one command", "script, no tracking, again"):
            kind = "control: " if name.endswith("again") else ""
            report.ratio(f"{kind}{statistic} of {name}", [f[statistic] for f in found[name]], base)
    report.remarks.append("mtexp writes to the same store; later points of a sweep: benchmarks/point_overhead.py.")
    report.show()


class Point:
    """The same two tenants, run by either side."""

    def __init__(self, folder: Path, iterations: int, *, gpu: bool) -> None:
        self._folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self._overrides = ["mix=pair", f"measure.iterations={iterations}", "measure.overlap=fixed", "baseline=skip"]
        self._sizes = ["runtime=gpu"] if gpu else list(common.SMALL)
        spec, _ = common.spec_of(self._overrides, gpu=gpu)
        self._spec = folder / "spec.json"
        self._save(spec)

    def _save(self, spec: object) -> None:
        from mtexp.spec import to_json

        self._spec.write_text(json.dumps(to_json(spec)))

    def script(self, uri: str) -> dict[str, float]:
        """One command of the plain script."""
        result = self._folder / f"{uuid.uuid4().hex}.json"
        argv = [sys.executable, "-m", "benchmarks.plain", str(self._spec), str(result), *([uri] if uri else [])]
        wall_s = common.command_s(argv, common.ROOT)
        tenants = [plain.latencies_ms(stamps) for stamps in json.loads(result.read_text())]
        return {"wall_s": wall_s, **_figures(tenants)}

    def mtexp(self) -> dict[str, float]:
        """One command of mtexp."""
        from mtexp.records.samples_file import read_samples

        sweep = uuid.uuid4().hex
        wall_s = common.command_s([*RUN, *self._sizes, *self._overrides, f"sweep={sweep}"], self._folder)
        samples = read_samples(self._folder / "outputs" / sweep / "iterations.parquet")
        return {"wall_s": wall_s, **_figures([s.measured.latency_ms for s in samples.values()])}


def _figures(tenants: list[np.ndarray]) -> dict[str, float]:
    """Means over the tenants of their own p50 and p99: pooled latencies of unlike models say nothing."""
    each = [common.latency_figures(latency_ms) for latency_ms in tenants]
    return {statistic: float(np.mean([f[statistic] for f in each])) for statistic in ("p50", "p99")}


if __name__ == "__main__":
    main()
