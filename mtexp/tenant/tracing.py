"""Marks and traces of profile runs; not active in a timed run. May touch: torch."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mtexp.spec import TenantSpec
from mtexp.tenant.job import ProcessJob

NCU_LAYER, NCU_HEAD, NCU_REQUEST = "mtexp_ncu_layer", "mtexp_ncu_head", "mtexp_ncu_request"
"""NVTX ranges that :mod:`mtexp.profiling.ncu` looks for."""


def marked(
    request: Callable[[], int], nvtx: str, tenant: TenantSpec, warmup: int, module: torch.nn.Module | None = None
) -> Callable[[], int]:
    """``request`` in the NVTX ranges its profiler wants.

    For nsys every request is in ``tenant=<id>|iteration=<n>`` (n counts warm-ups too). For ncu only the first one after
    ``warmup`` is marked: its middle layer and its head (:func:`_layer_and_head`), since the layers of a transformer are
    equal and each profiled kernel costs tenths of a second; or the whole request where layers cannot be found.
    """
    if not nvtx:
        return request
    numbers = itertools.count()
    parts = _layer_and_head(module, tenant) if nvtx == "ncu" else {}

    def with_range() -> int:
        number = next(numbers)
        if nvtx == "nsys":
            return _ranged(f"tenant={tenant.id}|iteration={number}", request)
        if number != warmup:
            return request()
        if not parts:
            return _ranged(NCU_REQUEST, request)
        with _hooked(parts):
            return request()

    return with_range


def _ranged(name: str, request: Callable[[], int]) -> int:
    torch.cuda.nvtx.range_push(name)
    token = request()
    torch.cuda.nvtx.range_pop()
    return token


def _layer_and_head(module: torch.nn.Module | None, tenant: TenantSpec) -> dict[str, torch.nn.Module]:
    """The middle of the model's layers and its language-model head, by range; none where kernels are not the eager
    ones of one forward pass: then modules are not called (graphs), fused (compile) or only half of it (train). None
    either where layers differ (two stacks, convolutions).
    """
    if module is None or tenant.execution != "eager" or tenant.workload.kind == "train" or not tenant.model.has_formula:
        return {}
    stacks = [list(part) for part in module.modules() if isinstance(part, torch.nn.ModuleList) and len(part)]
    if not stacks:
        return {}
    layers = max(stacks, key=len)
    head = getattr(module, "get_output_embeddings", lambda: None)()
    return {NCU_LAYER: layers[len(layers) // 2], **({NCU_HEAD: head} if isinstance(head, torch.nn.Module) else {})}


@contextlib.contextmanager
def _hooked(parts: dict[str, torch.nn.Module]) -> Iterator[None]:
    """Each of ``parts`` in the range of its name, while this is entered."""

    def open_range(name: str) -> None:  # a hook that returns something replaces what the module is given, or gives
        torch.cuda.nvtx.range_push(name)

    def close_range(*_: object) -> None:
        torch.cuda.nvtx.range_pop()

    with contextlib.ExitStack() as stack:
        for name, part in parts.items():
            stack.callback(part.register_forward_pre_hook(lambda *_, name=name: open_range(name)).remove)
            stack.callback(part.register_forward_hook(close_range).remove)
        yield


@contextlib.contextmanager
def traced_phase(process: ProcessJob, tenant_id: str) -> Iterator[None]:
    """The measuring phase as the profiler of ``process`` wants it; as it is in a timed run."""
    if process.nvtx == "nsys":
        with torch.cuda.nvtx.range(f"tenant={tenant_id}|phase=measure"):
            yield
    elif process.torch_trace:
        activity = torch.profiler.ProfilerActivity
        traced = activity.CUDA if process.runtime == "gpu" else activity.CPU
        with torch.profiler.profile(activities=[traced], acc_events=True) as profile:
            yield
        profile.export_chrome_trace(str(Path(process.torch_trace) / f"{tenant_id}.trace.json"))
    else:
        yield


def busy_ms(request: Callable[[], int], requests: int = 3) -> float:
    """Device time of one request: the durations of its kernels and copies, traced, added up (one stream)."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]

    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity], acc_events=True) as profile:
        for _ in range(requests):
            request()
        torch.cuda.synchronize()
    device = (event for event in profile.events() if event.device_type == DeviceType.CUDA)
    return float(sum(event.time_range.elapsed_us() for event in device)) / 1e3 / requests
