"""What the harness does to the latency of one tenant: under mtexp with telemetry on, against a bare loop of the model.

Both run the same request the same number of times, one CPU thread each. The bare loop has a process of its own, forked
from the same server (a GPU is not lent for imports), and nothing else; mtexp has its parent, the board, the sample
buffers and the sampler. The control is a second bare loop: what its ratio strays from 1 is noise. A third one, where
there are cores enough, is pinned as mtexp pins its tenant: what differs there is the core, not the harness. How far a
fixed piece of work strays in time says how steady the host's cores are, which bounds what any of it can tell.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import common, plain

MODELS = ("bert_base", "llama_3_2_1b")
STATISTICS = ("mean", "p50", "p99")
_FIXED = 20


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=7, gpu=True)
    made.add_argument("--iterations", type=int, default=0, help="of each run; default 1000, with --quick 200")
    made.add_argument("overrides", nargs="*", help="more of the configuration: execution=cuda_graph")
    return made


def main() -> None:
    from mtexp.launch import leased_cores

    options = arguments().parse_args()
    iterations = options.iterations or (200 if options.quick else 1000)
    report = common.Report("perturbation")
    with common.scratch() as folder:
        tenants = common.Tenants(folder)
        with leased_cores([1]) as plan:
            cores = plan.processes[0]
        for model in MODELS:
            sizes = ["mix=solo", f"models@mix.tenants.a={model}", f"measure.iterations={iterations}"]
            sizes += options.overrides
            spec, device = common.spec_of(sizes, gpu=options.gpu)
            spec = replace(spec, measure=replace(spec.measure, warmup=50))

            def bare(on: tuple[int, ...] = (), spec: Any = spec) -> Any:
                stamps = plain.run(spec, method="forkserver", cores=on)
                return common.latency_figures(plain.latencies_ms(stamps[0]))

            def under_mtexp(spec: Any = spec, device: Any = device) -> Any:
                (samples,) = tenants.measure(spec, device).samples.values()
                return common.latency_figures(samples.measured.latency_ms)

            cases: dict[str, Any] = {"bare": bare, "mtexp": under_mtexp, "bare again": bare}
            if cores:
                cases["bare pinned"] = partial(bare, cores)
            found = common.interleaved(cases, common.repeats_of(options))
            _tell(report, model, found, "1.01" if options.gpu else "1.02")
    report.add("control: fixed work", [common.fixed_work_s() for _ in range(_FIXED)], "s")
    report.show()


def _tell(report: common.Report, model: str, found: dict[str, list[dict[str, float]]], most: str) -> None:
    by_case = {case: {s: [f[s] for f in figures] for s in STATISTICS} for case, figures in found.items()}
    report.add(f"{model} bare p50", by_case["bare"]["p50"], "ms")
    for statistic in STATISTICS:
        target = f"<= {'1.05' if statistic == 'p99' else most}"
        base = by_case["bare"][statistic]
        report.ratio(f"{model} {statistic}, mtexp / bare", by_case["mtexp"][statistic], base, target)
        report.ratio(f"{model} {statistic}, control: bare / bare", by_case["bare again"][statistic], base)
        if "bare pinned" in by_case:
            report.ratio(f"{model} {statistic}, bare on mtexp's core / bare", by_case["bare pinned"][statistic], base)


if __name__ == "__main__":
    main()
