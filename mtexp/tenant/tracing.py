"""Marks and traces of profile runs; nothing of it is active in a timed run. May touch: torch."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mtexp.tenant.job import ProcessJob

NCU_RANGE = "mtexp_ncu"


def marked(request: Callable[[], int], nvtx: str, tenant_id: str, warmup: int) -> Callable[[], int]:
    """``request`` in the NVTX ranges its profiler wants.

    For nsys every request is in ``tenant=<id>|iteration=<n>`` (n counts warm-ups too); for ncu only the first one after
    ``warmup`` is in a range, so that one whole request is profiled.
    """
    if not nvtx:
        return request
    numbers = itertools.count()

    def with_range() -> int:
        number = next(numbers)
        if nvtx == "ncu" and number != warmup:
            return request()
        torch.cuda.nvtx.range_push(NCU_RANGE if nvtx == "ncu" else f"tenant={tenant_id}|iteration={number}")
        token = request()
        torch.cuda.nvtx.range_pop()
        return token

    return with_range


@contextlib.contextmanager
def traced_phase(process: ProcessJob, tenant_id: str) -> Iterator[None]:
    """The measuring phase as the profiler of ``process`` wants it; as it is in a timed run."""
    if process.nvtx == "nsys":
        with torch.cuda.nvtx.range(f"tenant={tenant_id}|phase=measure"):
            yield
    elif process.torch_trace:
        activity = torch.profiler.ProfilerActivity
        traced = activity.CUDA if process.runtime == "gpu" else activity.CPU
        with torch.profiler.profile(activities=[traced]) as profile:
            yield
        profile.export_chrome_trace(str(Path(process.torch_trace) / f"{tenant_id}.trace.json"))
    else:
        yield


def busy_ms(request: Callable[[], int], requests: int = 3) -> float:
    """Device time of one request: the durations of its kernels and copies, traced, added up (one stream)."""
    from torch.autograd import DeviceType

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(requests):
            request()
        torch.cuda.synchronize()
    device = (event for event in profile.events() if event.device_type == DeviceType.CUDA)
    return float(sum(event.time_range.elapsed_us() for event in device)) / 1e3 / requests
