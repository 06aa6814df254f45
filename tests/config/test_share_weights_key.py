"""share_weights: replicas of one model in processes of their own; everything else is refused with the reason."""

from __future__ import annotations

import pytest

from mtexp.config import compose_spec
from mtexp.config.memory import run_mib, tenant_mib
from mtexp.errors import ConfigError
from mtexp.host import Device
from mtexp.spec import spec_hash

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 140_000, 132, capability=(9, 0))


@pytest.mark.parametrize("mode", ["disabled", "default"])
def test_replicas_share_under_time_slicing_and_mps(mode: str) -> None:
    """Their memory is that of one and the activations of the others; it is another run than without."""
    own = ["mix=llama_3_2_1b*3", f"mps_settings={mode}"]
    spec, plain = compose_spec([*own, "share_weights=true"], GPU), compose_spec(own, GPU)
    assert spec.sharing.share_weights
    assert spec_hash(spec) != spec_hash(plain)
    weights_mib = spec.tenants[0].model.parameters * 2 / 2**20
    once, thrice = (run_mib(spec.tenants, one_process=False, gpu=True, share_weights=s) for s in (True, False))
    assert thrice - once == pytest.approx(2 * weights_mib)
    assert once > tenant_mib(spec.tenants[0])


def test_replicas_may_ask_for_different_things() -> None:
    """Another batch, length or execution: the weights are the same."""
    own = ["mix.tenants.a.seq_len=32", "mix.tenants.b.execution=cuda_graph", "models@mix.tenants.b=bert_base"]
    spec = compose_spec(["mix=pair", "models@mix.tenants.a=bert_base", *own, "share_weights=true"], GPU)
    assert [tenant.workload.seq_len for tenant in spec.tenants] == [32, 128]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("mix=bert_base",), "false with one tenant"),
        (("mix=bert_base+llama_3_2_1b",), r"models or precisions differ \(bert_base and llama_3_2_1b\)"),
        (
            (
                "mix=pair",
                "models@mix.tenants.a=bert_base",
                "models@mix.tenants.b=bert_base",
                "mix.tenants.b.precision=bf16",
            ),
            r"models or precisions differ \(a and b\)",
        ),
        (("mix=bert_base*2", "workload=train"), "which trains"),
        (("mix=bert_base*2", "arrival=constant", "arrival.rate=10", "churn.repeats=1"), "false in a churn run"),
        (("mix=stress_l2*2",), "stressor: its weights are not mtexp's"),
        (("mix=bert_base*2", "sharing=streams"), r"sharing=streams \(all tenants are in one process\)"),
        (("mix=bert_base*2", "sharing=green_contexts"), r"sharing=green_contexts \(all tenants"),
        (("mix=bert_base*2", "sharing=mig"), r"sharing=mig \(an instance has memory of its own\)"),
    ],
)
def test_what_cannot_share_is_refused(overrides: tuple[str, ...], why: str) -> None:
    """In the plan."""
    with pytest.raises(ConfigError, match=rf"share_weights=true: allowed: .*{why}"):
        compose_spec([*overrides, "share_weights=true"], GPU)
