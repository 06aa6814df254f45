"""Marks of profile runs: which part of which request is in a range, and that a request is not changed by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mtexp.profiling.ncu import RANGES
from mtexp.spec import TenantSpec
from mtexp.tenant import tracing
from mtexp.tenant.requests import prepare
from tests.tenant.tenant_specs import stressor, tenant

CPU = torch.device("cpu")


@pytest.fixture(name="ranges")
def _ranges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was pushed and popped, in order."""
    seen: list[str] = []

    def note(name: str = "pop") -> int:
        seen.append(name)
        return 0  # the depth: not None, as a hook's answer has to be

    monkeypatch.setattr(torch.cuda.nvtx, "range_push", note)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", note)
    return seen


def iterate(spec: TenantSpec, nvtx: str, times: int = 4) -> None:
    """Four requests, two of them warm-ups."""
    ready = prepare(spec, CPU, lambda module: module)
    request = tracing.marked(ready.request, nvtx, spec, 2, ready.module)
    with torch.inference_mode():
        for _ in range(times):
            request()


def test_the_profiler_looks_for_the_ranges_of_the_tenant() -> None:
    """Two layers name the same ranges, since neither may import the other."""
    assert set(RANGES) == {tracing.NCU_LAYER, tracing.NCU_HEAD, tracing.NCU_REQUEST}


@pytest.mark.parametrize("name", ["bert_base", "deberta_v3_base"])
def test_ncu_sees_one_layer_of_an_encoder_once(ranges: list[str], name: str) -> None:
    """The first request after the warm-up, one of its layers; encoders have no head."""
    iterate(tenant(name), "ncu")
    assert ranges == [tracing.NCU_LAYER, "pop"]


@pytest.mark.parametrize("name", ["distilgpt2", "llama_3_2_1b", "mistral_7b"])
@pytest.mark.parametrize("kind", ["forward", "prefill", "decode"])
def test_ncu_sees_one_layer_and_the_head_of_a_decoder(ranges: list[str], name: str, kind: str) -> None:
    """One layer stands for all, which are equal; the head is another matrix."""
    iterate(tenant(name, kind), "ncu")
    assert ranges == [tracing.NCU_LAYER, "pop", tracing.NCU_HEAD, "pop"]


def test_ncu_sees_a_layer_of_every_token_generated(ranges: list[str]) -> None:
    """A prompt and three further tokens."""
    iterate(tenant("llama_3_2_1b", "generate"), "ncu")
    assert ranges == [tracing.NCU_LAYER, "pop", tracing.NCU_HEAD, "pop"] * 4


@pytest.mark.parametrize(
    "spec",
    [tenant("bert_base", "train"), stressor("sm"), replace(tenant("bert_base"), execution="cuda_graph")],
    ids=["train", "stressor", "graph"],
)
def test_ncu_sees_the_whole_request_where_no_layer_stands_for_it(ranges: list[str], spec: TenantSpec) -> None:
    """Half of a training step is backward, a stressor has no layers, a graph does not call them."""
    iterate(spec, "ncu")
    assert ranges == [tracing.NCU_REQUEST, "pop"]


def test_marks_do_not_change_what_a_model_answers(ranges: list[str]) -> None:
    """A hook that returns something would replace what the layer is given, or gives."""
    spec, answers = tenant("llama_3_2_1b"), []

    def keeping(module: torch.nn.Module):  # type: ignore[no-untyped-def]
        def call(**arguments: object) -> object:
            answers.append(module(**arguments))
            return answers[-1]

        return call

    ready = prepare(spec, CPU, keeping)
    request = tracing.marked(ready.request, "ncu", spec, 1, ready.module)
    with torch.inference_mode():
        for _ in range(3):
            request()
    assert ranges
    assert torch.equal(answers[0].logits, answers[1].logits)
    assert ready.module is not None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in ready.module.modules())


def test_nsys_sees_every_request_by_name(ranges: list[str]) -> None:
    """Tenant and number, warm-ups counted too; a timed run has no marks at all."""
    iterate(tenant("bert_base"), "nsys", 2)
    assert ranges == ["tenant=a|iteration=0", "pop", "tenant=a|iteration=1", "pop"]
    ranges.clear()
    iterate(tenant("bert_base"), "")
    assert ranges == []
