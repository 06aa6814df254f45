"""What a user would write by hand: tenants as spawned processes, a barrier, a loop, perhaps log_metric inside it.

    python -m benchmarks.plain SPEC.json RESULT.json [TRACKING_URI]

No part of mtexp's harness runs here. It only takes the request (model, weights, inputs) from ``mtexp.tenant``,
so that both sides of a comparison do the same work. With a tracking URI every iteration calls ``mlflow.log_metric``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtexp.spec import RunSpec

EXPERIMENT = "plain"


def run(
    spec: RunSpec,
    uri: str = "",
    method: str = "spawn",
    cores: Collection[int] = (),
    around: Callable[[Any], Any] | None = None,
) -> list[list[tuple[int, int]]]:
    """Run the tenants of ``spec`` together, ``measure.iterations`` each; start and end (ns) of every iteration.

    ``method`` is how multiprocessing starts them: ``forkserver`` saves the seconds of a fresh process's imports.
    ``cores`` are the CPU cores all of them may use; empty = where the kernel likes. ``around``, which must pickle,
    makes of the request what is called in its stead.
    """
    if uri:
        import mlflow

        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
    context: Any = multiprocessing.get_context(method)
    barrier, results = context.Barrier(len(spec.tenants)), context.SimpleQueue()
    processes = [
        context.Process(target=_tenant, args=(spec, position, barrier, results, uri, cores, around))
        for position in range(len(spec.tenants))
    ]
    for process in processes:
        process.start()
    stamps = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return stamps


def _tenant(
    spec: RunSpec,
    position: int,
    barrier: Any,
    results: Any,
    uri: str,
    cores: Collection[int],
    around: Callable[[Any], Any] | None,
) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
    import torch

    from mtexp.tenant.execution import compiler, ready
    from mtexp.tenant.requests import prepare

    torch.set_num_threads(1)
    gpu = spec.runtime == "gpu"
    tenant = spec.tenants[position]
    prepared = prepare(tenant, torch.device("cuda" if gpu else "cpu"), compiler(tenant.execution))
    request = ready(prepared, tenant.execution)
    if around is not None:
        request = around(request)
    log = _logger(uri)
    stamps = []
    with torch.inference_mode():
        for _ in range(spec.measure.warmup):
            request()
        if gpu:
            torch.cuda.synchronize()
        barrier.wait()
        for step in range(spec.measure.iterations):
            start_ns = time.monotonic_ns()
            request()
            if gpu:
                torch.cuda.synchronize()
            end_ns = time.monotonic_ns()
            stamps.append((start_ns, end_ns))
            log((end_ns - start_ns) / 1e6, step)
    results.put(stamps)


def _logger(uri: str) -> Any:
    if not uri:
        return lambda latency_ms, step: None
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(EXPERIMENT)
    mlflow.start_run()
    return lambda latency_ms, step: mlflow.log_metric("latency_ms", latency_ms, step=step)


def latencies_ms(stamps: list[tuple[int, int]]) -> Any:
    """Latencies (ms) of one tenant, shape (n,)."""
    import numpy as np

    return np.array([(end_ns - start_ns) / 1e6 for start_ns, end_ns in stamps])


def main(arguments: list[str]) -> None:
    from mtexp.spec import RunSpec, from_json

    spec = from_json(RunSpec, json.loads(Path(arguments[0]).read_text()))
    rest: Any = arguments[2:]
    stamps = run(spec, *rest)
    Path(arguments[1]).write_text(json.dumps(stamps))


if __name__ == "__main__":
    main(sys.argv[1:])
