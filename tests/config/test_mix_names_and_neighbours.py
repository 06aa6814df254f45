"""What a run is called, and tenants whose arrivals are not those of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.config import CONF_DIR, compose_spec
from mtexp.errors import ConfigError
from mtexp.host import Device
from mtexp.spec import ModelSpec, TenantSpec, WorkloadSpec

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("mix=pair", "pair"),
        ("mix=pair models@mix.tenants.b=distilgpt2", "bert_base+distilgpt2"),
        ("mix=pair ~models@mix.tenants.b", "bert_base"),
        ("mix=pair +models@mix.tenants.c=mistral_7b", "bert_base+llama_3_2_1b+mistral_7b"),
        ("mix=pair mix.tenants.a.count=4", "bert_base*4+llama_3_2_1b"),
        ("mix=pair mix.tenants.a.batch_size=1", "pair"),
        ("mix=solo models@mix.tenants.a=mistral_7b", "mistral_7b"),
        ("mix=bert_base*2 mix.tenants.bert_base.count=3", "bert_base*3"),
        ("mix=llama_3_2_1b+bert_base*2", "llama_3_2_1b+bert_base*2"),
    ],
)
def test_a_mix_is_called_what_it_is(overrides: str, name: str) -> None:
    """A query for mix=pair finds BERT beside Llama and nothing else; other models have the token's name."""
    assert compose_spec(overrides.split(), GPU).mix == name


@pytest.mark.parametrize("name", sorted(file.stem for file in Path(CONF_DIR, "mix").glob("*.yaml")))
def test_the_models_of_a_named_mix_are_those_it_says(name: str) -> None:
    """Each file's ``models`` agrees with its tenants, so that the name is kept."""
    assert compose_spec([f"mix={name}"], GPU).mix == name


def test_a_closed_neighbour_of_open_tenants() -> None:
    """One tenant busy all the time beside others with a rate: the run's rate, load and trace are not its own."""
    a, b = compose_spec(["mix=pair", "arrival=poisson", "mix.tenants.b.arrival.kind=closed"], GPU).tenants
    assert (a.arrival.kind, a.arrival.load) == ("poisson", 0.5)
    assert (b.arrival.kind, b.arrival.load, b.arrival.rate_rps) == ("closed", 0, 0)
    closed = ["mix.tenants.b.arrival.kind=closed", "mix.tenants.b.arrival.load=0.5"]
    with pytest.raises(ConfigError, match="arrival=closed sends the next request when"):
        compose_spec(["mix=pair", "arrival=poisson", *closed], GPU)


def test_a_level_that_is_a_multiple_of_nothing_is_refused() -> None:
    """slo_factor without baselines would silently be no level at all."""
    with pytest.raises(ConfigError, match=r"slo_factor=2.*baseline=skip"):
        compose_spec(["mix=pair", "mix.tenants.a.slo_factor=2", "baseline=skip"], GPU)


@pytest.mark.parametrize(
    ("kind", "tokens", "said"),
    [
        ("forward", 8 * 128, "one forward pass over 8 x 128 tokens"),
        ("prefill", 8 * 128, "a KV cache filled from 8 x 128 tokens"),
        ("decode", 8, "the next token of 8 sequences, from a KV cache of 128 tokens each"),
        ("generate", 8 * 32, "32 tokens generated after a prompt of 128, for 8 sequences"),
        ("train", 8 * 128, "one training step (forward, backward, AdamW) over 8 x 128 tokens"),
    ],
)
def test_a_request_says_what_it_is(kind: str, tokens: int, said: str) -> None:
    """What a latency is the latency of, and how many tokens that is."""
    tenant = TenantSpec(
        id="a", model=ModelSpec(name="m", role="decoder", architecture="gpt2"), workload=WorkloadSpec(kind=kind)
    )
    assert (tenant.workload.tokens, tenant.request) == (tokens, said)
