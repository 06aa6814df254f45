"""A CUDA graph holds addresses, not tensors: what it reads must live as long as its tenant."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from tenant_specs import tenant

from mtexp.spec import MeasureSpec
from mtexp.tenant import execution, process
from mtexp.tenant.buffers import Board, SampleBuffer
from mtexp.tenant.device import CpuDevice
from mtexp.tenant.job import ProcessJob, TenantJob
from mtexp.tenant.prepared import Prepared


def test_weights_and_inputs_outlive_a_request_that_does_not_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next allocation overwrites them, and every replay computes garbage."""
    module: list[Any] = []
    inputs: list[Any] = []

    def captured(prepared: Prepared, kind: str) -> Any:
        module.append(weakref.ref(prepared.module))
        inputs.extend(weakref.ref(tensor) for tensor in prepared.inputs)
        return lambda: 0  # as a graph's replay: it refers to no tensor

    monkeypatch.setattr(execution, "ready", captured)
    samples, board = tmp_path / "samples.bin", tmp_path / "board.bin"
    SampleBuffer(samples, 16, create=True)
    job = TenantJob(tenant=tenant("bert_base"), slot=0, samples=str(samples))
    whole = ProcessJob(
        name="a", tenants=(job,), address="", board=str(board), log="", runtime="cpu", measure=MeasureSpec()
    )
    built = process._Tenant(job, whole, CpuDevice(), Board(board, 1, create=True), (None, None))
    built.build()
    gc.collect()
    assert module[0]() is not None
    assert inputs
    assert all(ref() is not None for ref in inputs)
