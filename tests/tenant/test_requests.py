"""What one iteration is: the request of each workload computes what it says, again and again."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from transformers import StaticCache

from mtexp.errors import MtexpError
from mtexp.spec import TenantSpec
from mtexp.tenant.model_requests import random_tokens
from mtexp.tenant.prepared import Prepared
from mtexp.tenant.requests import prepare
from tests.tenant.tenant_specs import STRESSORS, model, stressor, tenant

CPU = torch.device("cpu")
DECODERS = ("distilgpt2", "llama_3_2_1b", "mistral_7b")
ENCODERS = ("bert_base", "deberta_v3_base")


class Recorder:
    """Stands where ``torch.compile`` would and keeps what the model is called with and what it answers."""

    def __init__(self) -> None:
        self.model: Any = None
        self.calls: list[dict[str, Any]] = []
        self.answers: list[Any] = []

    def __call__(self, model: Any) -> Any:
        self.model = model

        def call(**arguments: Any) -> Any:
            self.calls.append(arguments)
            self.answers.append(model(**arguments))
            return self.answers[-1]

        return call


def prepared(spec: TenantSpec) -> tuple[Prepared, Recorder]:
    recorder = Recorder()
    return prepare(spec, CPU, recorder), recorder


def full_logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the last position from one pass over all tokens, without a cache."""
    return model(input_ids=tokens, use_cache=False).logits[:, -1]


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_forward_passes_over_every_token(name: str) -> None:
    """A decoder answers logits of every position, an encoder the last hidden state."""
    ready, recorder = prepared(tenant(name))
    with torch.inference_mode():
        assert ready.request() == 0
    answer = recorder.answers[0]
    values = answer.logits if name in DECODERS else answer.last_hidden_state
    width = recorder.model.config.vocab_size if name in DECODERS else recorder.model.config.hidden_size
    assert values.shape == (2, 12, width)
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", DECODERS)
def test_prefill_fills_the_cache_from_empty_every_time(name: str) -> None:
    """The last position's logits are those of a full pass; the cache holds seq_len tokens after each iteration."""
    spec = tenant(name, "prefill")
    ready, recorder = prepared(spec)
    tokens = random_tokens(recorder.model, spec, CPU)
    with torch.inference_mode():
        expected = full_logits(recorder.model, tokens)
        for _ in range(3):
            ready.request()
            torch.testing.assert_close(recorder.answers[-1].logits[:, -1], expected, atol=1e-5, rtol=1e-4)
            assert int(recorder.calls[-1]["past_key_values"].get_seq_length()) == 12


@pytest.mark.parametrize("name", DECODERS)
def test_decode_is_the_next_position_of_a_full_pass_every_time(name: str) -> None:
    """One token from a cache of seq_len tokens: same logits as a pass over all; the length never drifts."""
    spec = tenant(name, "decode")
    ready, recorder = prepared(spec)
    tokens = random_tokens(recorder.model, spec, CPU)
    with torch.inference_mode():
        expected = full_logits(recorder.model, torch.cat([tokens, tokens[:, -1:]], dim=1))
        for _ in range(20):
            ready.request()
            call = recorder.calls[-1]
            assert call["input_ids"].shape == (2, 1)
            torch.testing.assert_close(recorder.answers[-1].logits[:, -1], expected, atol=1e-5, rtol=1e-4)
            assert int(call["past_key_values"].get_seq_length()) == 13


def test_decode_beyond_a_sliding_window_keeps_its_length() -> None:
    """A context longer than the window attends to the window only, and the cache still says the whole length."""
    spec = replace(tenant("mistral_7b", "decode"), model=model("mistral_7b", sliding_window=8))
    ready, recorder = prepared(spec)
    tokens = random_tokens(recorder.model, spec, CPU)
    with torch.inference_mode():
        expected = full_logits(recorder.model, torch.cat([tokens, tokens[:, -1:]], dim=1))
        ready.request()
        torch.testing.assert_close(recorder.answers[-1].logits[:, -1], expected, atol=1e-5, rtol=1e-4)
        for _ in range(10):
            ready.request()
            assert int(recorder.calls[-1]["past_key_values"].get_seq_length()) == 13


@pytest.mark.parametrize("name", DECODERS)
def test_generate_is_greedy_and_reports_its_first_token(name: str) -> None:
    """new_tokens model calls a request; the tokens are those of repeated full passes; TTFT lies inside the request."""
    spec = tenant(name, "generate")
    ready, recorder = prepared(spec)
    sequence = random_tokens(recorder.model, spec, CPU)
    with torch.inference_mode():
        for _ in range(4):
            sequence = torch.cat([sequence, full_logits(recorder.model, sequence).argmax(-1, keepdim=True)], dim=1)
        for _ in range(2):
            recorder.answers.clear()
            start_ns = time.monotonic_ns()
            first_ns = ready.request()
            assert start_ns < first_ns < time.monotonic_ns()
            tokens = torch.stack([answer.logits[:, -1].argmax(-1) for answer in recorder.answers], dim=1)
            assert torch.equal(tokens, sequence[:, 12:])
    assert "first token" in ready.not_capturable


def test_generate_of_one_token_is_its_prefill() -> None:
    """One new token needs one pass."""
    ready, recorder = prepared(tenant("llama_3_2_1b", "generate", new_tokens=1))
    with torch.inference_mode():
        assert ready.request() > 0
    assert len(recorder.calls) == 1


@pytest.mark.parametrize("name", ["distilgpt2", "bert_base"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_train_changes_every_weight_and_stays_finite(name: str, precision: str) -> None:
    """Inside the loop's inference mode too: forward, backward, step."""
    ready, recorder = prepared(tenant(name, "train", precision=precision))
    module = recorder.model
    before = {key: value.detach().clone() for key, value in module.named_parameters()}
    with torch.inference_mode():
        for _ in range(3):
            ready.request()
    after = dict(module.named_parameters())
    changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
    assert len(changed) > len(before) / 2
    assert all(torch.isfinite(value).all() for value in after.values())
    assert module.training
    assert ready.not_capturable


def test_equal_seeds_give_equal_weights_and_inputs() -> None:
    """And another seed gives others."""
    answers = []
    for seed in (1, 1, 2):
        ready, recorder = prepared(tenant("bert_base", seed=seed))
        with torch.inference_mode():
            ready.request()
        answers.append((recorder.calls[0]["input_ids"], recorder.answers[0].last_hidden_state))
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1])
    assert not torch.equal(answers[0][0], answers[2][0])
    assert not torch.equal(answers[0][1], answers[2][1])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_weights_are_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    """Made in it, not converted afterwards; the cache as well."""
    ready, recorder = prepared(tenant("llama_3_2_1b", "decode", precision=precision))
    assert {p.dtype for p in recorder.model.parameters()} == {dtype}
    with torch.inference_mode():
        ready.request()
    layer = recorder.calls[0]["past_key_values"].layers[0]
    assert (layer.keys.dtype, layer.values.dtype) == (dtype, dtype)


def test_tf32_is_a_matmul_precision_of_fp32_weights() -> None:
    """tf32 sets it, fp32 sets it back: a process never keeps another run's."""
    _, recorder = prepared(tenant("bert_base", precision="tf32"))
    assert torch.get_float32_matmul_precision() == "high"
    assert {p.dtype for p in recorder.model.parameters()} == {torch.float32}
    prepared(tenant("bert_base"))
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("kind", STRESSORS)
def test_stressors_run(kind: str) -> None:
    """Every kind that conf/models has is a request."""
    ready = prepare(stressor(kind), CPU, lambda module: module)
    with torch.inference_mode():
        assert ready.request() == 0
    assert ready.module is None


def test_what_is_no_model_of_transformers_needs_none() -> None:
    """A fresh process imports it for its models only."""
    assert tenant("bert_base").model.of_transformers
    assert not stressor("launch").model.of_transformers


def test_a_loss_is_a_number() -> None:
    """The training loss of random weights is near that of guessing: the labels are the inputs."""
    ready, recorder = prepared(tenant("llama_3_2_1b", "train"))
    with torch.inference_mode():
        ready.request()
    guessing = math.log(recorder.model.config.vocab_size)
    assert recorder.answers[0].loss.item() == pytest.approx(guessing, rel=0.2)


@pytest.mark.parametrize("kind", ["prefill", "decode", "generate"])
@pytest.mark.parametrize("change", ["no early initialisation", "no lengths", "lengths on the host"])
def test_a_cache_of_another_transformers_is_said(monkeypatch: pytest.MonkeyPatch, kind: str, change: str) -> None:
    """One message with the release and what to do, instead of an AttributeError or a cache that never fills."""

    class Other(StaticCache):
        def early_initialization(self, *sizes: Any) -> None:
            if change == "no early initialisation":
                raise AttributeError("no attribute 'early_initialization'")
            super().early_initialization(*sizes)
            for layer in self.layers:
                if change == "no lengths":
                    del layer.cumulative_length
                else:
                    layer.cumulative_length = 0

    monkeypatch.setattr("mtexp.tenant.model_requests.StaticCache", Other)
    with pytest.raises(MtexpError, match=f"transformers {transformers.__version__}.*workload=forward"):
        prepare(tenant("llama_3_2_1b", kind), torch.device("cpu"), lambda module: module)
