"""On a real GPU: the busy time of a request, held and traced, and requests as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtexp.host import Device
from tests.strategies import closed_loop

pytestmark = pytest.mark.gpu


def _timed(request: Callable[[], int], times: int = 30) -> float:
    """Median latency of a request, ms."""
    import time

    import torch

    found = []
    for _ in range(times):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        request()
        torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(found))


def _probed(request: Callable[[], int]) -> tuple[float, float]:
    """Busy time by the held queue, and latency, both ms."""
    from mtexp.tenant.process import _Tenant

    latency_ms = _timed(request)
    samples = closed_loop(np.full(20, latency_ms), warmup=2)
    own: Any = SimpleNamespace(
        buffer=SimpleNamespace(samples=lambda: samples), loop=SimpleNamespace(request=request), busy_ms=None
    )
    _Tenant.probe_busy(own)
    return float(own.busy_ms), latency_ms


def test_both_ways_to_the_busy_time_agree(gpu: Device) -> None:
    """A few large kernels: held behind a busy device, or added up from a trace; both close to the latency."""
    import torch

    from mtexp.tenant import tracing

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

    def request() -> int:
        torch.mm(a, a)
        torch.mm(a, a)
        return 0

    held_ms, latency_ms = _probed(request)
    assert held_ms == pytest.approx(tracing.busy_ms(request), rel=0.1)
    assert 0.5 * latency_ms < held_ms <= 1.1 * latency_ms


def test_a_launch_bound_request_leaves_the_device_idle(gpu: Device) -> None:
    """Hundreds of tiny kernels: the device works for a small part of the latency, as a trace says too."""
    import torch

    from mtexp.tenant import tracing

    a = torch.ones(16, device="cuda")

    def request() -> int:
        for _ in range(300):
            a.add_(1.0)
        return 0

    held_ms, latency_ms = _probed(request)
    assert held_ms < 0.8 * latency_ms
    assert tracing.busy_ms(request) < 0.8 * latency_ms


@pytest.mark.parametrize(
    ("name", "kind"),
    [("bert_base", "forward"), ("deberta_v3_base", "forward"), ("llama_3_2_1b", "prefill"), ("llama_3_2_1b", "decode")],
)
def test_a_graph_computes_what_the_request_computes(gpu: Device, name: str, kind: str) -> None:
    """Replayed: one launch, and the output of the eager request, to the rounding of half precision."""
    import torch

    from mtexp.tenant import execution
    from mtexp.tenant.requests import prepare
    from tests.tenant.tenant_specs import tenant

    seen: list[torch.Tensor] = []

    def recorded(module: Any) -> Any:
        def call(**inputs: Any) -> Any:
            output = module(**inputs)
            seen.append(output[0])
            return output

        return call

    spec = tenant(name, kind, precision="fp16")
    with torch.inference_mode():
        prepared = prepare(spec, torch.device("cuda"), recorded)
        prepared.request()
        torch.cuda.synchronize()
        eager = seen[-1].clone()
        request = execution.ready(prepared, "cuda_graph")
        captured = seen[-1]  # where the graph writes
        captured.zero_()
        assert request() == 0
        torch.cuda.synchronize()
        torch.testing.assert_close(captured, eager, rtol=0.02, atol=0.02)
        request()
        torch.cuda.synchronize()
        torch.testing.assert_close(captured, eager, rtol=0.02, atol=0.02)


def test_a_request_that_hands_a_token_to_the_host_is_refused(gpu: Device) -> None:
    """With the reason, before anything is captured."""
    import torch

    from mtexp.tenant import execution
    from mtexp.tenant.requests import prepare
    from tests.tenant.tenant_specs import tenant

    prepared = prepare(
        tenant("llama_3_2_1b", "generate", precision="fp16"), torch.device("cuda"), lambda module: module
    )
    with pytest.raises(execution.NotCapturable, match="execution=eager"):
        execution.ready(prepared, "cuda_graph")
