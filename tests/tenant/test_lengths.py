"""Requests of a trace's lengths: each runs in its own shape, in the order of the trace, and its output is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mtexp.lengths import Lengths
from mtexp.spec import ArrivalSpec, TenantSpec
from mtexp.tenant import execution, outputs
from mtexp.tenant.buffers import SampleBuffer
from mtexp.tenant.prepared import Prepared, Request
from mtexp.tenant.requests import prepare
from tests.tenant.tenant_specs import tenant
from tests.tenant.test_requests import Recorder

CPU = torch.device("cpu")
GIVEN, MADE, BUCKETS = (5, 30, 16, 7), (3, 1, 2, 4), (16, 32)


def traced(name: str, kind: str) -> TenantSpec:
    """A tenant whose requests have 5, 30, 16 and 7 tokens; they generate 3, 1, 2 and 4."""
    lengths = Lengths(input_tokens=GIVEN, output_tokens=MADE if kind == "generate" else (), buckets=BUCKETS)
    return replace(tenant(name, kind), arrival=ArrivalSpec(kind="trace", trace=(0, 1, 2, 3), lengths=lengths))


def built(name: str, kind: str) -> tuple[Prepared, Recorder]:
    recorder = Recorder()
    prepared = prepare(traced(name, kind), CPU, recorder)
    assert prepared.trace is not None
    prepared.trace.rewind()
    recorder.calls.clear()
    return prepared, recorder


@pytest.mark.parametrize(("name", "kind"), [("bert_base", "forward"), ("llama_3_2_1b", "prefill")])
def test_requests_come_in_the_order_of_the_trace_padded(name: str, kind: str) -> None:
    """And begin again after the last one."""
    prepared, recorder = built(name, kind)
    with torch.inference_mode():
        for _ in range(6):
            prepared.request()
    assert [call["input_ids"].shape[1] for call in recorder.calls] == [16, 32, 16, 16, 16, 32]


def test_a_decode_step_sees_the_context_of_its_request() -> None:
    """The cache holds as many tokens as the bucket."""
    prepared, recorder = built("llama_3_2_1b", "decode")
    with torch.inference_mode():
        for _ in range(3):
            prepared.request()
    assert [int(call["position_ids"][0, 0]) for call in recorder.calls] == [16, 32, 16]


def test_each_request_generates_the_tokens_that_its_own_asks_for() -> None:
    """A prompt and one call a further token; requests of one cache length share a cache."""
    prepared, recorder = built("llama_3_2_1b", "generate")
    calls = []
    with torch.inference_mode():
        for _ in GIVEN:
            recorder.calls.clear()
            assert prepared.request() > 0
            calls.append(len(recorder.calls))
    assert calls == list(MADE)
    assert len({id(call["past_key_values"]) for call in recorder.calls}) == 1


@pytest.mark.parametrize(("name", "kind"), [("bert_base", "forward"), ("llama_3_2_1b", "generate")])
def test_kept_outputs_are_compared_with_the_same_request_issued_again(name: str, kind: str) -> None:
    """A right one is close; one that another request gave is wrong."""
    prepared, _ = built(name, kind)
    assert prepared.trace is not None
    own = prepared.outputs
    with torch.inference_mode():
        found = outputs.check_layers(prepared.forward or prepared.request, "fp32")
        own.checked()
        prepared.trace.rewind(warming=True)
        for _ in range(prepared.trace.shapes):
            own.last = None
            prepared.request()
        own.warm()
        result: dict[str, Any] = {}
        for spoilt in (False, True):
            prepared.trace.rewind()
            own.plan(0, 4, seed=1)
            for row in range(4):
                own.last = None
                prepared.request()
                if spoilt:
                    own.last = outputs.output_tensor(own.last).roll(1, -1)
                if row >= own.due:
                    own.keep()
            result = own.compare("fp32")
            assert result["wrong"] == (result["kept"] if spoilt else 0)
    assert found["wrong_kinds"] == 0
    assert result["kept"] == 5


def test_every_shape_is_run_in_the_warm_up_and_checked() -> None:
    """The largest last; products of all shapes are among those compared with float32."""
    prepared, recorder = built("bert_base", "forward")
    assert prepared.trace is not None
    prepared.trace.rewind(warming=True)
    with torch.inference_mode():
        for _ in range(prepared.trace.shapes):
            prepared.request()
        assert [call["input_ids"].shape[1] for call in recorder.calls] == [16, 32]
        outputs.check_layers(prepared.forward or prepared.request, "fp32")
    assert [call["input_ids"].shape[1] for call in recorder.calls[2:]] == [16, 32]


def test_a_shape_that_cannot_be_captured_is_refused_by_its_own_reason() -> None:
    """As for requests of one size."""
    prepared, _ = built("llama_3_2_1b", "generate")
    with pytest.raises(execution.NotCapturable, match="first token"):
        execution.ready(prepared, "cuda_graph")


def test_what_graphs_of_the_shapes_compute_otherwise_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every shape of a trace."""

    def captured(part: Prepared) -> Request:
        part.graph_differs.append(f"1 x linear {part.inputs[0].shape[1]} more")
        return part.request

    monkeypatch.setattr(execution, "_captured", captured)
    prepared, _ = built("llama_3_2_1b", "forward")
    execution.ready(prepared, "cuda_graph")
    assert prepared.trace is not None
    assert len(set(prepared.graph_differs)) == len(prepared.graph_differs) == prepared.trace.shapes > 1


def test_rows_are_given_the_lengths_of_their_requests(tmp_path: Path) -> None:
    """Warm-ups have none."""
    prepared, _ = built("llama_3_2_1b", "generate")
    assert prepared.trace is not None
    buffer = SampleBuffer(tmp_path / "samples", 16, create=True)
    buffer.header[0], buffer.header[1] = 8, 2
    prepared.trace.note(buffer, 2, 8)
    rows = buffer.samples()
    assert rows.input_tokens.tolist() == [0, 0, 5, 30, 16, 7, 5, 30]
    assert rows.padded_tokens.tolist() == [0, 0, 16, 32, 16, 16, 16, 32]
    assert rows.output_tokens.tolist() == [0, 0, 3, 1, 2, 4, 3, 1]
