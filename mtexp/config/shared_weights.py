"""Whether the tenants of a run can have their weights in memory once. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtexp.config.schema import Config, SharingMode
from mtexp.errors import ConfigError
from mtexp.spec import QUANTISED, ModelSpec, TenantSpec


def check_shared(config: Config, tenants: Sequence[TenantSpec]) -> None:
    """Refuse ``share_weights`` where tenants have no weights that are equal, or memory that cannot be shared.

    Raises:
        ConfigError: With the reason.
    """
    mode = config.sharing.mode
    if mode is not SharingMode.processes:
        why = "an instance has memory of its own" if mode is SharingMode.mig else "all tenants are in one process"
        raise _refused(f"false with sharing={mode.name} ({why})", "Use sharing=processes, or drop it.")
    if config.churn.repeats:
        raise _refused("false in a churn run (a neighbour that dies takes the weights along)", "Drop it.")
    if len(tenants) < 2:
        raise _refused("false with one tenant", "Add another of the same model, such as mix=bert_base*2.")
    for tenant in tenants:
        model = tenant.model
        if model.role in ("custom", "server", "stressor"):
            raise _refused(f"false with {tenant.id} ({model.role}: its weights are not mtexp's)", "Drop it.")
        if tenant.workload.kind == "train":
            raise _refused(f"false with {tenant.id}, which trains", "Training changes weights: drop it.")
        if tenant.precision in QUANTISED:
            raise _refused(f"false with precision={tenant.precision}", "Use precision=bf16, or drop it.")
        if _weights_of(tenant) != _weights_of(tenants[0]):
            what = f"false where models or precisions differ ({tenants[0].id} and {tenant.id})"
            raise _refused(what, "Use one model in one precision, such as mix=bert_base*4, or drop it.")


def _weights_of(tenant: TenantSpec) -> tuple[ModelSpec, str]:
    return replace(tenant.model, name="", pooling="", inputs={}, attn_implementation=""), tenant.precision


def _refused(allowed: str, remedy: str) -> ConfigError:
    return ConfigError("share_weights", "true", allowed, remedy)
