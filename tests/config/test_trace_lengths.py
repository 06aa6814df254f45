"""The tokens of a trace's requests: used where a tenant can vary its length, padded, cut, said in the plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mtexp.config import compose_spec
from mtexp.config.lengths import padded
from mtexp.config.memory import tenant_mib
from mtexp.config.shapes import dimensions
from mtexp.errors import ConfigError
from mtexp.spec import ArrivalSpec, RunSpec, from_json, spec_hash, to_json

AZURE = Path(__file__).parents[1] / "data" / "traces" / "azure.csv"
"""480, 512, 64 and 128 tokens of input, 10, 20, 30 and 5 of output."""
TRACE = ("arrival=trace", f"arrival.trace={AZURE}", "measure.iterations=4", "deadlines.measure_s=900")


def _spec(*overrides: str) -> RunSpec:
    return compose_spec([*TRACE, *overrides])


def test_an_encoder_has_the_input_of_the_trace_padded_to_powers_of_two() -> None:
    """And nothing of its output; the plan and the request's description say so."""
    spec = _spec("mix=bert_base")
    (tenant,) = spec.tenants
    assert [(s.input_tokens, s.padded_tokens, s.output_tokens) for s in tenant.arrival.lengths.sizes] == [
        (480, 512, 0),
        (512, 512, 0),
        (64, 64, 0),
        (128, 128, 0),
    ]
    assert "64 to 512" in tenant.request
    assert list(padded([spec])) == ["bert_base: the token counts of its trace are used: input padded to 64, 128, 512"]


def test_a_decoder_that_generates_has_both_in_a_cache_that_holds_them() -> None:
    """The output is not padded: a token is a step."""
    (tenant,) = _spec("mix=llama_3_2_1b", "workload=generate").tenants
    sizes = tenant.arrival.lengths.sizes
    assert [size.output_tokens for size in sizes] == [10, 20, 30, 5]
    assert [size.shape for size in sizes] == [(512, 1024), (512, 1024), (64, 128), (128, 256)]


def test_named_buckets_cut_what_is_longer() -> None:
    """The plan says how many requests that are."""
    spec = _spec("mix=bert_base", "arrival.buckets=[100,200]")
    sizes = spec.tenants[0].arrival.lengths.sizes
    assert [(s.input_tokens, s.padded_tokens) for s in sizes] == [(200, 200), (200, 200), (64, 100), (128, 200)]
    assert "2 of 4 requests are cut" in next(iter(padded([spec])))


def test_requests_are_cut_to_the_positions_of_the_model(tmp_path: Path) -> None:
    """distilgpt2 has 1024; an encoder of 512 takes no more; what is generated stays within what is left."""
    file = tmp_path / "t.csv"
    file.write_text("arrival_s,input_tokens,output_tokens\n0,5000,2000\n1,900,2000\n")
    own = ["arrival=trace", f"arrival.trace={file}", "measure.iterations=2", "runtime.shrink=none"]
    (gpt,) = compose_spec([*own, "mix=distilgpt2", "workload=generate"]).tenants
    assert [size[:3] for size in gpt.arrival.lengths.sizes] == [(992, 992, 32), (900, 992, 32)]
    assert max(size.cache_tokens for size in gpt.arrival.lengths.sizes) <= 1024
    (bert,) = compose_spec([*own, "mix=bert_base"]).tenants
    assert [size[:2] for size in bert.arrival.lengths.sizes] == [(512, 512), (512, 512)]


def test_the_memory_is_that_of_the_largest_request_and_of_the_other_caches() -> None:
    """Not of workload.seq_len; the caches of 64 and 128 tokens are there beside that of 512."""
    lone = _spec("mix=llama_3_2_1b", "workload=prefill").tenants[0]
    fixed = dataclasses.replace(lone, arrival=ArrivalSpec())
    as_long = dataclasses.replace(fixed, workload=dataclasses.replace(lone.workload, seq_len=512))
    assert tenant_mib(as_long) > tenant_mib(fixed)
    sizes = dimensions(lone.model.shape)
    assert sizes is not None
    of_a_token = 2 * lone.workload.batch_size * sizes.kv_heads * sizes.head_dim * sizes.layers * 2  # bytes of fp16
    assert tenant_mib(lone) - tenant_mib(as_long) == pytest.approx((64 + 128) * of_a_token / 2**20)
    encoder = _spec("mix=bert_base").tenants[0]
    assert tenant_mib(encoder) == tenant_mib(
        dataclasses.replace(encoder, arrival=ArrivalSpec(), workload=dataclasses.replace(encoder.workload, seq_len=512))
    )


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("mix=stress_l2",), "a stressor has no tokens"),
        (("mix=vit_base",), "its inputs are not tokens alone"),
        (("mix=bert_base", "workload=train"), "training steps are of one size"),
        (("mix=target:own:build",), "the factory makes requests of one size"),
    ],
)
def test_where_the_length_cannot_vary_the_plan_says_that_the_counts_are_not_used(
    overrides: tuple[str, ...], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason."""
    (tmp_path / "own.py").write_text("def build(**_):\n    return None\n")
    monkeypatch.chdir(tmp_path)
    spec = _spec(*overrides)
    (said,) = padded([spec])
    assert said.endswith(f"are not used: {why}")
    assert not spec.tenants[0].arrival.lengths.sizes


def test_the_counts_can_be_left_alone() -> None:
    """arrival.tokens=workload: all requests of one size, and nothing to say."""
    spec = _spec("mix=bert_base", "arrival.tokens=workload")
    assert not spec.tenants[0].arrival.lengths.sizes
    assert not list(padded([spec]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("mix=bert_base", "arrival.buckets=[128,64]"), r"arrival\.buckets=\[128,64\].*ascending"),
        (("mix=bert_base", "arrival.buckets=[0,64]"), r"arrival\.buckets=\[0,64\].*ascending"),
        (("mix=bert_base", "arrival.buckets=[64,4096]"), r"arrival\.buckets=4096: allowed: at most \d+ for bert_base"),
        (
            ("mix=bert_base", "arrival=poisson", "arrival.buckets=[64]"),
            r"arrival\.buckets.*only a trace has lengths, not arrival=poisson",
        ),
    ],
)
def test_buckets_that_cannot_be_are_refused(overrides: tuple[str, ...], message: str) -> None:
    """In the plan, with the key."""
    with pytest.raises(ConfigError, match=message):
        _spec(*overrides)


def test_a_hundred_shapes_are_refused(tmp_path: Path) -> None:
    """Each would be built, warmed up and captured."""
    file = tmp_path / "t.csv"
    file.write_text("arrival_s,input_tokens\n" + "\n".join(f"{i},{i + 1}" for i in range(100)))
    own = ["arrival=trace", f"arrival.trace={file}", "mix=bert_base", "measure.iterations=2"]
    buckets = ",".join(str(i + 1) for i in range(100))
    with pytest.raises(ConfigError, match=r"arrival\.buckets=100 shapes: allowed: at most 64"):
        compose_spec([*own, f"arrival.buckets=[{buckets}]"])


def test_lengths_survive_json_and_name_the_run() -> None:
    """Two traces of the same times and other lengths are two runs."""
    spec = _spec("mix=bert_base")
    assert from_json(RunSpec, to_json(spec)) == spec
    fixed = _spec("mix=bert_base", "arrival.tokens=workload")
    assert spec_hash(spec) != spec_hash(fixed)
