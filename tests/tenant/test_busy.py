"""How long the device is busy with a request: queued behind a held device, or added up from a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

from mtexp.errors import MtexpError
from mtexp.tenant import execution, tracing
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.process import _CYCLES_PER_MS, _Tenant
from tests.strategies import closed_loop


@dataclass
class Device:
    """A device that works through a queue while the host goes on; times in ms."""

    host: float = 0.0
    free_at: float = 0.0
    """When the last kernel queued will have ended."""
    done: dict[int, float] = field(default_factory=dict)

    def run(self, length: float) -> None:
        self.free_at = max(self.host, self.free_at) + length

    def request(self, kernels: int, enqueue: float, each: float) -> Callable[[], int]:
        def request() -> int:
            for _ in range(kernels):
                self.host += enqueue
                self.run(each)
            return 0

        return request

    def event(self, **options: Any) -> Any:
        at: list[float] = []

        def synchronize() -> None:
            self.host = max(self.host, at[-1])

        return SimpleNamespace(
            record=lambda: at.append(max(self.host, self.free_at)),
            query=lambda: self.host >= at[-1],
            synchronize=synchronize,
            elapsed_time=lambda other: other.at[-1] - at[-1],
            at=at,
        )


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: made.run(cycles / _CYCLES_PER_MS))
    monkeypatch.setattr("mtexp.tenant.process.tracing.busy_ms", lambda request: -1.0)
    return made


def probed(request: Callable[[], int], latency_ms: float) -> float:
    """What a tenant of this latency finds."""
    samples = closed_loop(np.full(20, latency_ms), warmup=2)
    own: Any = SimpleNamespace(
        buffer=SimpleNamespace(samples=lambda: samples), loop=SimpleNamespace(request=request), busy_ms=None
    )
    _Tenant.probe_busy(own)
    return float(own.busy_ms)


def test_a_launch_bound_request_is_busy_for_its_kernels_only(device: Device) -> None:
    """300 kernels of 2 us that take the host 10 us each: 3 ms of latency, of which the device works 0.6."""
    assert probed(device.request(300, 0.010, 0.002), 3.0) == pytest.approx(0.6)


def test_a_request_that_binds_the_device_is_busy_all_the_time(device: Device) -> None:
    """As long as it takes."""
    assert probed(device.request(20, 0.010, 0.5), 10.0) == pytest.approx(10.0)


def test_a_request_that_cannot_be_held_is_traced(device: Device) -> None:
    """It synchronises, or is enqueued more slowly than the device is held: what was not queued says nothing."""
    slow = device.request(300, 0.030, 0.002)  # 9 ms to enqueue behind 6 ms
    assert probed(slow, 3.0) == -1.0


def test_the_busy_time_of_a_trace_is_that_of_the_device_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels and copies are added, host events are not; a mean of the requests traced."""
    calls: list[int] = []

    class Profile:
        def __init__(self, **options: Any) -> None:
            pass

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def events(self) -> list[Any]:
            def event(kind: DeviceType, length_us: float) -> Any:
                return SimpleNamespace(device_type=kind, time_range=SimpleNamespace(elapsed_us=lambda: length_us))

            device = [event(DeviceType.CUDA, 200.0) for _ in calls] + [event(DeviceType.CUDA, 50.0) for _ in calls]
            return [*device, event(DeviceType.CPU, 1e6)]

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert tracing.busy_ms(lambda: calls.append(1) or 0, requests=4) == pytest.approx(0.25)
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("prepared", "reason"),
    [
        (Prepared(lambda: 0, not_capturable="its first token goes to the host"), "first token"),
        (Prepared(lambda: 0), "operation not permitted when stream is capturing"),
    ],
)
def test_what_cannot_be_captured_is_said(monkeypatch: pytest.MonkeyPatch, prepared: Prepared, reason: str) -> None:
    """The workload's own reason, or CUDA's, also inside that of TorchScript; with what to use instead."""

    def refuse(*arguments: object, **options: object) -> Any:
        script = "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript\n"
        said = "RuntimeError: operation not permitted when stream is capturing\nCUDA kernel errors might be ..."
        raise RuntimeError(script + said)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr(torch.cuda, "current_stream", refuse)
    with pytest.raises(MtexpError, match=f"{reason}.*Use execution=eager"):
        execution.ready(prepared, "cuda_graph")


def _capture_with(monkeypatch: pytest.MonkeyPatch, graph: Callable[..., Any]) -> None:
    """Let ``torch.cuda`` capture as ``graph`` does, without a device."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name in ("CUDAGraph", "Stream", "current_stream", "default_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda own: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", graph)


def test_the_first_error_of_a_capture_is_named_with_the_line_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA ends such a capture with a second error, which says only that there was one before."""
    capturing = []

    @contextmanager
    def graph(*arguments: object, **options: object) -> Iterator[None]:
        capturing.append(True)
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def finite_or_not() -> int:
        if capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nSearch for it in the manual.")
        return 0

    _capture_with(monkeypatch, graph)
    said = r"not permitted when stream is capturing \(test_busy\.py, line \d+: raise Runtime.*Use execution=eager"
    with pytest.raises(MtexpError, match=said):
        execution.ready(Prepared(finite_or_not), "cuda_graph")


def test_a_model_in_a_package_whose_name_begins_like_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision lies beside torch. An error without a text has its kind, and a file that is not there no line."""
    own: dict[str, Any] = {}
    source = "def model():\n    raise RuntimeError\n"
    exec(compile(source, f"{Path(torch.__file__).parent}vision/own.py", "exec"), own)
    _capture_with(monkeypatch, lambda *arguments, **options: nullcontext())
    with pytest.raises(MtexpError, match=r"RuntimeError \(own\.py, line 2\)"):
        execution.ready(Prepared(own["model"]), "cuda_graph")
