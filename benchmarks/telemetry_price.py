"""What the sampler costs the tenants: it comes and goes while they measure, so that both are of the same run.

Blocks of a second take turns: without, with, without, and without once more, which is the control. The mean latency of
a block with the sampler is compared with those of the blocks beside it; another run, with other processes, would differ
by more than the sampler costs. Starting and stopping it, which a real run does outside its window, is in no block.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common

if TYPE_CHECKING:
    from mtexp.host import Device
    from mtexp.metrics.samples import Samples
    from mtexp.spec import RunSpec

CYCLE = ("without", "with", "without", "control")
FEWEST = 5
"""Iterations of a block that has a mean."""


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=3, gpu=True)
    made.add_argument("--seconds", type=float, default=0, help="of each run; default 8, with --quick 4")
    made.add_argument("--block-s", type=float, default=1.0, help="of a block (default 1)")
    made.add_argument("--period-s", type=float, default=0.05, help="of the sampler (default 0.05, as shipped)")
    made.add_argument("overrides", nargs="*", help="more of the configuration: execution=cuda_graph")
    return made


@dataclass
class Blocks:
    """Starts and stops a sampler until told to end; says when which block was."""

    spec: RunSpec
    device: Device
    folder: Path
    block_s: float
    found: list[tuple[str, int, int]] = field(default_factory=list)
    """Kind, start and end (monotonic ns)."""
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Body of a thread."""
        from mtexp.launch import by_physical_core, plan_cores

        plan = plan_cores([1] * len(self.spec.tenants), by_physical_core(list(os.sched_getaffinity(0))), pin=True)
        core = plan.sampler[0] if plan.sampler else None
        for kind in itertools.cycle(CYCLE):
            if self.over.is_set():
                return
            if kind != "with":
                self._block(kind)
                continue
            with self._sampler(core) as sampler:
                self._block(kind)
                if findings := sampler.stop():
                    raise RuntimeError(findings[0].message)

    def _block(self, kind: str) -> None:
        begin = time.monotonic_ns()
        self.over.wait(self.block_s)
        self.found.append((kind, begin, time.monotonic_ns()))

    def _sampler(self, core: int | None) -> Any:
        import psutil

        from mtexp.telemetry import open_sampler

        pids = {f"process-{child.pid}": child.pid for child in psutil.Process().children(recursive=True)}
        path = self.folder / "price.parquet"
        mps = self.spec.sharing.mps_mode != "disabled"
        return open_sampler(self.spec.telemetry, self.spec.runtime, self.device.uuid, pids, path, core, mps=mps)


def block_means(samples: Sequence[Samples], blocks: Sequence[tuple[str, int, int]]) -> list[tuple[str, float | None]]:
    """Kind and mean latency (ms) of each block: of the iterations that lie in it, all tenants together."""
    means: list[tuple[str, float | None]] = []
    for kind, begin, end in blocks:
        inside: list[float] = []
        for one in samples:
            measured = one.measured
            keep = (measured.start_ns >= begin) & (measured.end_ns <= end)
            inside += measured.latency_ms[keep].tolist()
        means.append((kind, statistics.fmean(inside) if len(inside) >= FEWEST else None))
    return means


def ratios(means: Sequence[tuple[str, float | None]], kind: str) -> list[float]:
    """Mean of each block of ``kind`` over that of the two beside it."""
    found = []
    for before, (name, mean), after in zip(means, means[1:], means[2:], strict=False):
        if name == kind and mean is not None and before[1] is not None and after[1] is not None:
            found.append(2 * mean / (before[1] + after[1]))
    return found


def measured(tenants: common.Tenants, spec: RunSpec, device: Device, folder: Path, block_s: float) -> Any:
    """One run with blocks; kind and mean latency (ms) of each."""
    blocks = Blocks(spec, device, folder, block_s)
    thread = threading.Thread(target=blocks.run)
    thread.start()
    try:
        off = replace(spec, telemetry=replace(spec.telemetry, enabled=False))
        samples = list(tenants.measure(off, device).samples.values())
    finally:
        blocks.over.set()
        thread.join()
    return block_means(samples, blocks.found)


def main() -> None:
    options = arguments().parse_args()
    run_s = options.seconds or (4 if options.quick else 8)
    block_s = min(options.block_s, run_s / 8)
    report = common.Report("telemetry_price")
    with common.scratch() as folder:
        tenants = common.Tenants(folder)
        for mix in ("bert_base", "bert_base*2"):
            sizes = [f"mix={mix}", f"measure.min_time_s={run_s}", f"telemetry.period_s={options.period_s}"]
            spec, device = common.spec_of([*sizes, *options.overrides], gpu=options.gpu)
            runs = [measured(tenants, spec, device, folder, block_s) for _ in range(common.repeats_of(options))]
            without = [mean for means in runs for kind, mean in means if kind == "without" and mean is not None]
            report.add(f"{mix} mean latency without", without, "ms")
            for kind, target in (("with", "at most 1.005 on the H200"), ("control", "")):
                found = [ratio for means in runs for ratio in ratios(means, kind)]
                report.add(f"{mix} mean, {kind} / without", found, "x", target)
    report.show()


if __name__ == "__main__":
    main()
