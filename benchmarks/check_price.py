"""What checking outputs costs a tenant: seconds from its empty device to the end of its warm-up, with and without it.

Each figure is of a process of its own, forked as tenants are, since what a check costs is above all kernels that are
loaded for the first time. Nothing of it is in the window: ``loop_price`` measures the loop as it is, with outputs kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import common
from mtexp.processes import PRELOADED

_WARMUP = 10
_WITHIN_S = 40.0
"""Seconds of rounds of each model; with importing torch once, and the last round, it ends within a minute."""


def arguments() -> argparse.ArgumentParser:
    made = common.parser(__doc__ or "", repeats=6, gpu=True)
    made.add_argument("--models", default="bert_base", help="with commas between; also llama_3_2_1b, mistral_7b")
    made.add_argument("overrides", nargs="*", help="more of the configuration: execution=cuda_graph")
    return made


def main() -> None:
    options = arguments().parse_args()
    report = common.Report("check_price")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    _forked(_nothing)  # starts the forkserver, which imports torch
    for model in options.models.split(","):
        spec, _ = common.spec_of(["mix=solo", f"models@mix.tenants.a={model}", *options.overrides], gpu=options.gpu)
        cases = {
            name: lambda checked=checked, spec=spec: _forked(start, spec, checked)
            for name, checked in (("without", False), ("with", True), ("without again", False))
        }
        found = common.interleaved(cases, common.repeats_of(options), within_s=_WITHIN_S)
        starts = {name: [figures["start"] for figures in results] for name, results in found.items()}
        target = "<= 0.3" if model == "bert_base" else "<= 1"
        report.add(f"{model} start, without", starts["without"], "s")
        added = [with_s - without_s for with_s, without_s in zip(starts["with"], starts["without"], strict=True)]
        report.add(f"{model} start, with - without", added, "s", target)
        again = [a - b for a, b in zip(starts["without again"], starts["without"], strict=True)]
        report.add(f"{model} start, control: without - without", again, "s")
        for part in ("layers", "checksums", "outputs"):
            report.add(f"{model} {part}", [figures[part] for figures in found["with"]], "s")
        chance_pct = 100 * (1 - 0.5 ** (len(added) - 1))
        report.remarks.append(
            f"{model}: lowest and highest of {len(added)} differences hold their median with {chance_pct:.0f} %"
        )
        common.note(f"{model}: with - without {min(added):.3f} to {max(added):.3f} s")
    report.show()


def _forked(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what ``function`` returns in a process of its own that has torch imported."""
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        return pool.apply(function, arguments)


def _nothing() -> None:
    pass


def start(spec: Any, checked: bool) -> dict[str, float]:
    """Seconds of a tenant's start in this process, and of the parts of its checks."""
    import time

    import torch

    import mtexp.tenant.preload  # noqa: F401  what a tenant is forked with
    from mtexp.tenant import execution, outputs, weights
    from mtexp.tenant.device import open_device
    from mtexp.tenant.requests import prepare

    tenant, device = spec.tenants[0], open_device(spec.runtime)
    torch.set_num_threads(1)
    synchronize: Callable[[], None] = torch.cuda.synchronize if spec.runtime == "gpu" else lambda: None
    torch.zeros(1, device=device.torch_device)
    parts = {"layers": 0.0, "checksums": 0.0, "outputs": 0.0}

    def timed(part: str, action: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = action()
        synchronize()
        parts[part] += time.perf_counter() - begin
        return result

    begin = time.perf_counter()
    prepared = prepare(tenant, device.torch_device, execution.compiler(tenant.execution))
    if checked:
        for tensors in (prepared.module.parameters(), prepared.inputs):  # type: ignore[union-attr]
            timed("checksums", partial(weights.checksum, tensors))
        with execution.eagerly(tenant.execution):
            timed("layers", lambda: outputs.check_layers(prepared.forward or prepared.request, tenant.precision))
        timed("outputs", prepared.outputs.checked)
        timed("outputs", device.forget_peak)
    request = execution.ready(prepared, tenant.execution)
    with torch.inference_mode():
        for _ in range(_WARMUP):
            prepared.outputs.last = None
            request()
            synchronize()
        if checked:
            timed("outputs", prepared.outputs.warm)
    return {"start": time.perf_counter() - begin, **parts}


if __name__ == "__main__":
    main()
