"""What the harness does to a tenant while its core has nobody beside it: for hosts whose cores are virtual.

A virtual core is at times a thread of a physical core whose other thread somebody else's machine uses; it is slower
then by a factor of two, whoever measures. So every request, under mtexp and in the bare loop, follows a fixed piece of
work in its own process, whose time tells in which state the core was. Compared are the latencies, without that work, of
requests that were undisturbed before and after; how often either side was disturbed is told beside them. Requests of
the window's beginning are told apart: mtexp's tenants have waited for the common start, the bare loop just goes on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common, plain

if TYPE_CHECKING:
    import numpy as np

MODELS = ("bert_base", "llama_3_2_1b")
_COUNT = 20_000  # of the fixed work: 0.3 to 0.5 ms
_MOST = 100_000  # requests of a process
_WARMUP = 50
_SETTLED = 20
_SLACK = 1.15  # undisturbed: at most so much slower than the fastest twentieth of all
_FEWEST = 10
_DRAWS = 1000


@dataclass(frozen=True)
class Run:
    """The window of one run: time of the fixed work and of the request that followed, shape (n,) each."""

    fixed_us: np.ndarray
    latency_ms: np.ndarray

    def quiet(self, limit_us: float) -> np.ndarray:
        """Which requests had a core of their own before and after, shape (n,)."""
        import numpy as np

        free = self.fixed_us <= limit_us
        return np.asarray(free & np.append(free[1:], free[-1:]))


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=15, gpu=True)
    made.add_argument("--iterations", type=int, default=0, help="of each run; default 200, with --quick 100")
    made.add_argument("overrides", nargs="*", help="more of the configuration: execution=cuda_graph")
    return made


def main() -> None:
    from mtexp.launch import leased_cores

    options = arguments().parse_args()
    iterations = options.iterations or (100 if options.quick else 200)
    report = common.Report("undisturbed")
    with common.scratch() as folder:
        timed = folder / "fixed"
        timed.mkdir()
        tenants = common.Tenants(folder, _starter(timed))
        with leased_cores([1]) as plan:
            cores = plan.processes[0]
        for model in MODELS:
            sizes = ["mix=solo", f"models@mix.tenants.a={model}", f"measure.iterations={iterations}"]
            spec, device = common.spec_of([*sizes, *options.overrides], gpu=options.gpu)
            spec = replace(spec, measure=replace(spec.measure, warmup=_WARMUP))
            silent = replace(spec, telemetry=replace(spec.telemetry, enabled=False))

            def bare(spec: Any = spec) -> Run:
                around = partial(after_fixed_work, timed)
                stamps = plain.run(spec, method="forkserver", cores=cores, around=around)
                return _window(timed, plain.latencies_ms(stamps[0]))

            def under_mtexp(spec: Any = spec, device: Any = device) -> Run:
                (samples,) = tenants.measure(spec, device).samples.values()
                return _window(timed, samples.measured.latency_ms)

            cases: dict[str, Callable[[], Run]] = {
                "bare": bare,
                "mtexp": under_mtexp,
                "without sampler": partial(under_mtexp, silent),
                "bare again": bare,
            }
            found = common.interleaved(cases, common.repeats_of(options))
            _tell(report, model, found, "<= 1.01" if options.gpu else "<= 1.02")
    report.remarks.append(
        "Undisturbed: of all rounds together; lowest and highest are the 95 % interval, runs resampled."
    )
    report.show()


# --- in the tenant ----------------------------------------------------------------------------------------------------


def after_fixed_work(folder: Path, request: Callable[[], int]) -> Callable[[], int]:
    """``request`` after a fixed piece of work, whose times (ns) go to a file of this process in ``folder``."""
    import numpy as np

    times = np.memmap(folder / f"{os.getpid()}.ns", dtype=np.int64, mode="w+", shape=(_MOST,))
    times[:] = 0  # its pages exist from now on
    row, now = 0, time.perf_counter_ns

    def both() -> int:
        nonlocal row
        begin = now()
        for _ in range(_COUNT):
            pass
        times[row] = now() - begin
        row += 1
        return request()

    return both


def _starter(folder: Path) -> Any:
    """The starter of mtexp, of tenants whose requests follow a fixed piece of work."""
    from mtexp.launch import ForkserverStarter
    from mtexp.spec import to_json

    class Starter(ForkserverStarter):
        def start(self, job: Any) -> Any:
            return self.fork(job.name, _serve, to_json(job), folder)

    return Starter()


def _serve(data: dict[str, Any], folder: Path) -> None:
    from mtexp.tenant import execution, process

    ready = execution.ready
    execution.ready = lambda prepared, execution: after_fixed_work(folder, ready(prepared, execution))
    process.serve(data)


# --- what it says -----------------------------------------------------------------------------------------------------


def _window(folder: Path, latency_ms: Any) -> Run:
    import numpy as np

    (path,) = folder.glob("*.ns")
    fixed_ns = np.fromfile(path, dtype=np.int64)[_WARMUP : _WARMUP + len(latency_ms)]  # a probe may follow the window
    path.unlink()
    return Run(fixed_ns / 1e3, latency_ms - fixed_ns / 1e6)


def _tell(report: common.Report, model: str, found: Mapping[str, list[Run]], target: str) -> None:
    import numpy as np

    limit_us = _SLACK * float(np.percentile(np.concatenate([r.fixed_us for runs in found.values() for r in runs]), 5))
    for case, runs in found.items():
        shares = [100 * float(np.mean(run.fixed_us > limit_us)) for run in runs]
        report.add(f"{model} requests on a disturbed core, {case}", shares, "%")

    def quiet(case: str, rows: slice = slice(None)) -> list[np.ndarray]:
        return [run.latency_ms[rows][run.quiet(limit_us)[rows]] for run in found[case]]

    def compare(name: str, case: str, of: Callable[[Any], Any], rows: slice = slice(None), target: str = "") -> None:
        if ratios := _resampled(quiet(case, rows), quiet("bare", rows), of):
            report.add(f"{model} {name}, {case} / bare", ratios, "x", target)
        else:
            report.remarks.append(f"{model} {name}, {case} / bare: fewer than {_FEWEST} undisturbed requests.")

    for case in ("mtexp", "without sampler", "bare again"):
        figures: dict[str, Any] = {"mean": np.mean, "p50": np.median, "p99": lambda v: np.percentile(v, 99)}
        for name, of in figures.items():
            wanted = "<= 1.05" if name == "p99" else target
            compare(f"{name} undisturbed", case, of, target=wanted if case == "mtexp" else "")
    parts = {"first request": slice(1), f"2nd to {_SETTLED}th": slice(1, _SETTLED), "later": slice(_SETTLED, None)}
    for part, rows in parts.items():
        compare(f"p50 undisturbed of the window's {part}", "mtexp", np.median, rows)


def _resampled(runs: Sequence[Any], against: Sequence[Any], of: Callable[[Any], Any]) -> list[float]:
    """Ratio of ``of`` over the requests of all ``runs`` to that over ``against``: median and 95 % interval (bootstrap
    over runs, since the requests of one are alike); [] where there are too few.
    """
    import numpy as np

    if min(sum(map(len, runs)), sum(map(len, against))) < _FEWEST:
        return []
    random = np.random.default_rng(0)

    def drawn(side: Sequence[Any]) -> Any:
        return np.concatenate([side[place] for place in random.integers(len(side), size=len(side))])

    pairs = [(drawn(runs), drawn(against)) for _ in range(_DRAWS)]
    ratios = [float(of(one) / of(other)) for one, other in pairs if len(one) and len(other)]
    return [float(value) for value in np.percentile(ratios, [50, 2.5, 97.5])]


if __name__ == "__main__":
    main()
