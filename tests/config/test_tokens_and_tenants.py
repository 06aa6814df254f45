"""Mix tokens, tenants swapped, added, dropped and counted, settings of one tenant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.config import compose_spec
from mtexp.config.tokens import parse_mix, parse_percentage
from mtexp.errors import ConfigError
from mtexp.host import Device

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)

_models = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True), st.integers(1, 48), min_size=1)


def _ids(*overrides: str) -> list[str]:
    return [tenant.id for tenant in compose_spec(overrides, GPU).tenants]


@given(_models)
def test_a_token_says_models_and_counts(models: dict[str, int]) -> None:
    """What is written is what is read."""
    assert parse_mix("+".join(f"{model}*{count}" for model, count in models.items())) == models


@given(st.text(max_size=40))
def test_any_text_is_a_token_or_none(text: str) -> None:
    """Reading a token never raises, and what it accepts has names and counts."""
    counts = parse_mix(text)
    assert counts is None or all(model.isidentifier() and count >= 0 for model, count in counts.items())
    assert parse_percentage(text) is None or text.endswith("pct")


def test_a_model_that_is_named_twice_counts_twice() -> None:
    """bert_base+bert_base is bert_base*2."""
    assert parse_mix("bert_base+bert_base") == {"bert_base": 2}


def test_a_token_is_a_mix() -> None:
    """Tenants are named after their models, numbered where there are several."""
    spec = compose_spec(["mix=bert_base*2+llama_3_2_1b"], GPU)
    assert spec.mix == "bert_base*2+llama_3_2_1b"
    assert [(t.id, t.model.name) for t in spec.tenants] == [
        ("bert_base_0", "bert_base"),
        ("bert_base_1", "bert_base"),
        ("llama_3_2_1b", "llama_3_2_1b"),
    ]


def test_tenants_are_swapped_added_dropped_and_counted_from_the_command_line() -> None:
    """The four ways to change a mix."""
    swapped = compose_spec(["models@mix.tenants.b=distilgpt2"], GPU)
    assert [t.model.name for t in swapped.tenants] == ["bert_base", "distilgpt2"]
    assert "num_key_value_heads" not in swapped.tenants[1].model.shape, "nothing of the model before is left"
    assert _ids("+models@mix.tenants.c=distilgpt2") == ["a", "b", "c"]
    assert _ids("~models@mix.tenants.b") == ["a"]
    assert _ids("mix.tenants.a.count=3") == ["a_0", "a_1", "a_2", "b"]


def test_a_tenant_may_differ_from_the_run() -> None:
    """Own batch size, length, precision, execution, workload, service level, arrivals and MPS limits; others keep."""
    spec = compose_spec(
        [
            "mps_settings=half",
            "mix.tenants.b.batch_size=2",
            "mix.tenants.b.seq_len=64",
            "mix.tenants.b.workload=decode",
            "mix.tenants.b.precision=bf16",
            "mix.tenants.b.execution=cuda_graph",
            "mix.tenants.b.slo_ms=20",
            "mix.tenants.b.active_thread_pct=30",
            "mix.tenants.b.pinned_memory_limit=8G",
            "mix.tenants.b.priority=1",
            "+arrival@mix.tenants.b.arrival=poisson",
            "mix.tenants.b.arrival.rate=5",
        ],
        GPU,
    )
    a, b = spec.tenants
    assert (a.workload.batch_size, a.workload.kind, a.precision, a.mps.active_thread_pct) == (8, "forward", "fp16", 50)
    assert (b.workload.batch_size, b.workload.seq_len, b.workload.kind) == (2, 64, "decode")
    assert (b.precision, b.execution, b.slo_ms) == ("bf16", "cuda_graph", 20)
    assert (b.mps.active_thread_pct, b.mps.pinned_memory_limit, b.mps.priority) == (30, "8G", 1)
    assert (a.arrival.kind, b.arrival.kind, b.arrival.rate_rps) == ("closed", "poisson", 5)


def test_arrivals_of_tenants_differ_and_repeat() -> None:
    """Tenants do not get their requests at the same instants; the same run gets the same; repetitions differ."""
    first = [t.arrival.seed for t in compose_spec(["mix=bert_base*3", "arrival=poisson"], GPU).tenants]
    again = [t.arrival.seed for t in compose_spec(["mix=bert_base*3", "arrival=poisson"], GPU).tenants]
    later = [t.arrival.seed for t in compose_spec(["mix=bert_base*3", "arrival=poisson", "repetition=1"], GPU).tenants]
    assert first == again
    assert len({*first, *later}) == 6


@pytest.mark.parametrize("tenants", [1, 2, 3, 7, 48])
def test_equal_shares_never_sum_to_more_than_the_device(tenants: int) -> None:
    """100/n, rounded down."""
    spec = compose_spec([f"mix=bert_base*{tenants}", "mps_settings=equal_share"], GPU)
    shares = [t.mps.active_thread_pct for t in spec.tenants]
    assert 99 < sum(shares) <= 100 + 1e-9


def test_a_percentage_names_the_setting() -> None:
    """30pct as a choice and as a number over a named choice are one setting, told apart from default."""
    token = compose_spec(["mps_settings=30pct"], GPU)
    number = compose_spec(["mps_settings=default", "mps_settings.active_thread_pct=30"], GPU)
    assert token.mps_settings == number.mps_settings == "30pct"
    assert token.tenants == number.tenants
    assert compose_spec(["mps_settings=half"], GPU).mps_settings == "half"


def test_tenants_up_to_the_client_limit() -> None:
    """48 are accepted, 49 are refused with the limit in the message."""
    assert len(_ids("mix=bert_base*48")) == 48
    with pytest.raises(ConfigError, match=r"49 tenants.*at most 48"):
        _ids("mix=bert_base*49")


def test_ids_that_would_collide_are_refused() -> None:
    """Two of a and one called a_0 cannot both be written to logs/a_0.log."""
    with pytest.raises(ConfigError, match="a_0"):
        _ids("mix.tenants.a.count=2", "+models@mix.tenants.a_0=distilgpt2")
