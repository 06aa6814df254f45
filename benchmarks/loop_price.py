"""What the measuring loop adds to a request: blocks of it and of a bare loop take turns in one process, on one request.

Two processes of one model differ by several percent, more than a loop could cost; blocks that follow each other in one
process do not. The sampler's part is ``telemetry_price``, which works in the same way.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

MODELS = ("bert_base", "llama_3_2_1b")
_PAIRS = 10


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=20, gpu=True)
    made.add_argument("--block", type=int, default=20, help="requests of a block; a repeat has ten of either kind")
    made.add_argument("overrides", nargs="*", help="more of the configuration: execution=cuda_graph")
    return made


def main() -> None:
    options = arguments().parse_args()
    report = common.Report("loop_price")
    with common.scratch() as folder:
        for model in MODELS:
            spec, _ = common.spec_of(["mix=solo", f"models@mix.tenants.a={model}", *options.overrides], gpu=options.gpu)
            found = _blocks(spec, folder / model, common.repeats_of(options), options.block)
            report.add(f"{model} bare p50", [float(np.median(f["bare"])) for f in found], "ms")
            figures: dict[str, Any] = {"mean": np.mean, "p50": np.median, "p99": lambda v: np.percentile(v, 99)}
            for name, of in figures.items():
                bare, loop, again = ([float(of(f[kind])) for f in found] for kind in ("bare", "loop", "bare again"))
                target = f"<= {'1.05' if name == 'p99' else '1.01' if options.gpu else '1.02'}"
                report.ratio(f"{model} {name}, mtexp / bare", loop, bare, target)
                report.ratio(f"{model} {name}, control: bare / bare", again, bare)
    report.show()


def _blocks(spec: Any, folder: Path, repeats: int, block: int) -> list[dict[str, Any]]:
    """Latencies (ms) of each repeat by kind, shape (10 * block,)."""
    import torch

    from mtexp.tenant.buffers import Board, SampleBuffer
    from mtexp.tenant.device import open_device
    from mtexp.tenant.execution import compiler, ready
    from mtexp.tenant.loop import Loop
    from mtexp.tenant.requests import prepare

    folder.mkdir()
    tenant, device = spec.tenants[0], open_device(spec.runtime)
    torch.set_num_threads(1)
    rows = 50 + repeats * _PAIRS * block
    buffer = SampleBuffer(folder / "samples.bin", rows, create=True)
    buffer.prefault()
    wait: Any = torch.cuda.synchronize if spec.runtime == "gpu" else lambda: None
    with torch.inference_mode():
        request = ready(prepare(tenant, device.torch_device, compiler(tenant.execution)), tenant.execution)
        loop = Loop(request, device.timer(), buffer, Board(folder / "board.bin", 1, create=True), 0)
        loop.warm_up(50)

        def bare() -> list[float]:
            latencies = []
            for _ in range(block):
                start_ns = time.monotonic_ns()
                request()
                wait()
                latencies.append((time.monotonic_ns() - start_ns) / 1e6)
            return latencies

        def mtexp() -> list[float]:
            first = loop.rows
            loop.measure_closed(block)
            return list(buffer.samples().service_ms[first:])

        gc.collect()
        gc.disable()
        found = []
        for _ in range(repeats):
            turns = common.interleaved({"bare": bare, "loop": mtexp, "bare again": bare}, _PAIRS)
            found.append({kind: np.concatenate(blocks) for kind, blocks in turns.items()})
        gc.enable()
    return found


if __name__ == "__main__":
    main()
