"""What the sampler costs the tenants: two of them with telemetry on, against off; the control is off once more."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from benchmarks import common


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=7, gpu=True)
    made.add_argument("--iterations", type=int, default=0, help="of each run; default 1000, with --quick 200")
    made.add_argument("--period-s", type=float, default=0.05, help="of the sampler (default 0.05, as shipped)")
    return made


def main() -> None:
    options = arguments().parse_args()
    iterations = options.iterations or (200 if options.quick else 1000)
    report = common.Report("telemetry_price")
    with common.scratch() as folder:
        tenants = common.Tenants(folder)
        for mix in ("bert_base", "bert_base*2"):
            sizes = [f"mix={mix}", f"measure.iterations={iterations}", f"telemetry.period_s={options.period_s}"]
            spec, device = common.spec_of(sizes, gpu=options.gpu)
            off = replace(spec, telemetry=replace(spec.telemetry, enabled=False))

            def latencies(spec, device=device):
                measured = tenants.measure(spec, device).samples.values()
                return common.latency_figures(np.concatenate([s.measured.latency_ms for s in measured]))

            found = common.interleaved(
                {
                    "off": lambda off=off: latencies(off),
                    "on": lambda on=spec: latencies(on),
                    "off again": lambda off=off: latencies(off),
                },
                common.repeats_of(options),
            )
            report.add(f"{mix} off p50", [f["p50"] for f in found["off"]], "ms")
            for statistic in ("mean", "p50", "p99"):
                base = [f[statistic] for f in found["off"]]
                report.ratio(f"{mix} {statistic}, on / off", [f[statistic] for f in found["on"]], base)
                report.ratio(f"{mix} {statistic}, control: off / off", [f[statistic] for f in found["off again"]], base)
    report.show()


if __name__ == "__main__":
    main()
