"""Converts ``mix.tenants`` to TenantSpecs: merges settings, expands counts, checks models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mtexp.config.checks import at_least, own_or_run, within
from mtexp.config.lengths import lengths_of
from mtexp.config.memory import limit_mib
from mtexp.config.models import model_of
from mtexp.config.schema import Arrival, ArrivalConfig, Config, Scale, SharingMode, TenantConfig, Tokens
from mtexp.config.servers import is_server, server_model
from mtexp.config.traces import read_trace
from mtexp.errors import ConfigError, Misplaced
from mtexp.lengths import Lengths
from mtexp.spec import ArrivalSpec, CostSpec, ModelSpec, MpsLimits, TenantSpec, WorkloadSpec

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST_SMS = 1024
"""More than any GPU has."""
_REPETITION_SEED = 1000
"""Difference between the seeds of two repetitions; larger than the number of tenants."""


def tenant_specs(config: Config, *, shrunk: bool, limit: int) -> tuple[TenantSpec, ...]:
    """Return the tenants of ``config`` in the order of the mix.

    Args:
        config: The composed configuration.
        shrunk: Make models with random weights small.
        limit: Maximum number of tenants.

    Raises:
        ConfigError: There are no tenants, too many, or a tenant has invalid settings.
    """
    ids = _expand(config, limit)
    specs = []
    for entry, members in ids.items():
        spec = _tenant(config, f"mix.tenants.{entry}", config.mix.tenants[entry], shrunk=shrunk)
        specs += [replace(spec, id=member) for member in members]
    base = config.seed if config.arrival.seed is None else config.arrival.seed
    return tuple(_seeded(spec, base + config.repetition * _REPETITION_SEED + i) for i, spec in enumerate(specs))


def _seeded(spec: TenantSpec, seed: int) -> TenantSpec:
    """Give each tenant its own arrival seed: with equal seeds, all requests would arrive at the same times."""
    own = spec.arrival.seed
    return replace(spec, arrival=replace(spec.arrival, seed=seed if own < 0 else own))


def _expand(config: Config, limit: int) -> dict[str, list[str]]:
    """Return {entry: tenant ids}, entries in the order of the mix."""
    mix = config.mix
    for entry, tenant in mix.tenants.items():
        key = f"mix.tenants.{entry}"
        if not _ID.fullmatch(str(entry)):
            raise ConfigError(key, entry, "letters, digits, _ and -, at most 64", "Give the tenant another id.")
        if not tenant.name:
            raise ConfigError(key, "(no model)", "an entry with a model", f"Add +models@{key}=bert_base.")
        if not _MODEL.fullmatch(tenant.name) or ".." in tenant.name:  # it names the folder and tenant of its baseline
            what = "letters, digits and _ . -, at most 64"
            raise ConfigError(f"{key}.name", tenant.name, what, "Give the model another name.")
        if tenant.count < 1:
            raise ConfigError(f"{key}.count", tenant.count, "1 or more", f"To remove it, write ~models@{key}.")
    total = sum(tenant.count for tenant in mix.tenants.values())
    if total == 0:
        remedy = "Add one with +models@mix.tenants.a=bert_base, or choose a mix such as mix=pair."
        raise ConfigError("mix", mix.name or "(empty)", "a mix with at least one tenant", remedy)
    if total > limit:
        what = f"at most {limit} tenants (the MPS client limit of the driver)"
        raise ConfigError("mix", f"{mix.name} ({total} tenants)", what, "Lower the counts or drop tenants.")
    ids = {e: [e] if t.count == 1 else [f"{e}_{i}" for i in range(t.count)] for e, t in mix.tenants.items()}
    names = [name for members in ids.values() for name in members]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"mix.tenants.{name}", name, "tenant ids that differ", "Rename one of the two entries.")
    return ids


def _tenant(config: Config, key: str, tenant: TenantConfig, *, shrunk: bool) -> TenantSpec:
    workload = _workload(config, key, tenant)
    at_least(f"{key}.slo_ms", tenant.slo_ms, 0)
    at_least(f"{key}.slo_factor", tenant.slo_factor, 0)
    cost = CostSpec()
    if is_server(tenant):
        model, workload = server_model(config, key, tenant, workload)
    else:
        model, cost = model_of(config, key, tenant, workload, shrunk=shrunk)
    return TenantSpec(
        id=key,
        model=model,
        workload=workload,
        arrival=_arrival(config, key, tenant, model, workload),
        precision=(tenant.precision or config.precision.name).name,
        execution=(tenant.execution or config.execution).name,
        mps=_mps_limits(config, key, tenant),
        **_partition(config, key, tenant),
        mig=tenant.mig,
        slo_ms=tenant.slo_ms,
        slo_factor=tenant.slo_factor,
        seed=config.seed,
        cost=cost,
    )


def _workload(config: Config, key: str, tenant: TenantConfig) -> WorkloadSpec:
    run = config.workload
    _, kind = own_or_run(tenant.workload, f"{key}.workload", run.kind, "workload")
    sizes = {}
    for name in ("batch_size", "seq_len", "new_tokens"):
        size_key, size = own_or_run(getattr(tenant, name), f"{key}.{name}", getattr(run, name), f"workload.{name}")
        at_least(size_key, size, 1)
        sizes[name] = size
    return WorkloadSpec(kind=kind.name, **sizes)


# --- arrivals, limits -------------------------------------------------------------------------------------------------


def _arrival(config: Config, key: str, tenant: TenantConfig, model: ModelSpec, workload: WorkloadSpec) -> ArrivalSpec:
    own, run = tenant.arrival, config.arrival
    if own.kind is Arrival.closed:  # a closed-loop tenant does not use the run's rate
        run = ArrivalConfig()
    kind_key, kind = own_or_run(own.kind, f"{key}.arrival.kind", run.kind, "arrival")
    rate_key, rate = own_or_run(own.rate, f"{key}.arrival.rate", run.rate, "arrival.rate")
    load_key, load = own_or_run(own.load, f"{key}.arrival.load", run.load, "arrival.load")
    trace_key, trace = own_or_run(own.trace, f"{key}.arrival.trace", run.trace, "arrival.trace")
    at_least(rate_key, rate, 0)
    within(load_key, load, 0, 100)
    seed = -1 if own.seed is None else own.seed  # -1: set later from the tenant's position in the run
    scale_key, scale = own_or_run(own.scale, f"{key}.arrival.scale", run.scale, "arrival.scale")
    buckets_key, buckets = own_or_run(own.buckets, f"{key}.arrival.buckets", run.buckets, "arrival.buckets")
    if kind is Arrival.trace:
        if scale is not Scale.none and not rate:
            raise ConfigError(rate_key, rate, f"a rate with {scale_key}={scale.name}", f"Set {rate_key}=10.")
        drawn = config.seed if seed < 0 else seed
        requests = read_trace(trace_key, trace, scale.name, rate, drawn)
        _, wanted = own_or_run(own.tokens, "", run.tokens, "")
        lengths = (
            Lengths() if wanted is Tokens.workload else lengths_of(buckets_key, buckets, requests, model, workload)
        )
        return ArrivalSpec(kind="trace", trace=tuple(r.time_s for r in requests), lengths=lengths, seed=seed)
    if own.scale not in (None, Scale.none) or (own.kind is None and scale is not Scale.none):
        raise ConfigError(scale_key, scale.name, f"none with {kind_key}={kind.name}", "Add arrival=trace.")
    if own.buckets or (own.kind is None and run.buckets):
        raise Misplaced(
            buckets_key, str(buckets), f"only a trace has lengths, not {kind_key}={kind.name}", "Add arrival=trace."
        )
    if kind is Arrival.closed:
        for value_key, value in ((rate_key, rate), (load_key, load), (trace_key, trace)):
            if value:
                why = "arrival=closed sends the next request when the last one has ended"
                raise Misplaced(value_key, value, why, "Add arrival=poisson or constant.")
        return ArrivalSpec(kind="closed", seed=seed)
    if not rate and not load:
        what = f"a rate or a load with {kind_key}={kind.name}"
        raise ConfigError(rate_key, rate, what, f"Set {rate_key}=10 (requests a second) or {load_key}=0.5.")
    return ArrivalSpec(kind=kind.name, rate_rps=rate, load=0.0 if rate else load, seed=seed)


def _mps_limits(config: Config, key: str, tenant: TenantConfig) -> MpsLimits:
    run = config.mps_settings
    named = {
        name: own_or_run(getattr(tenant, name), f"{key}.{name}", getattr(run, name), f"mps_settings.{name}")
        for name in ("active_thread_pct", "pinned_memory_limit", "priority", "sm_partition")
    }
    if tenant.active_thread_pct == 0:
        remedy = "Leave it out for the run's share, or write 100 for no limit."
        raise ConfigError(f"{key}.active_thread_pct", 0, "above 0 and at most 100", remedy)
    if run.equal_share and tenant.active_thread_pct is None:
        named["active_thread_pct"] = ("mps_settings.active_thread_pct", _equal_share(config))
    return _checked_limits(config, named)


def _partition(config: Config, key: str, tenant: TenantConfig) -> dict[str, Any]:
    """SMs of the tenant's green context, or their share in percent: its own, the run's, or an equal share."""
    run, own = config.sharing.sm_count, {f"{key}.sm_count": tenant.sm_count, f"{key}.sm_pct": tenant.sm_pct}
    if config.sharing.mode is not SharingMode.green_contexts:
        for name, value in {"sharing.sm_count": run or None, **own}.items():
            if value is not None:
                remedy = "Add sharing=green_contexts, or drop it."
                raise Misplaced(name, value, "only sharing=green_contexts gives a tenant SMs of its own", remedy)
        return {}
    if tenant.sm_count is not None and tenant.sm_pct is not None:
        remedy = f"Drop {key}.sm_count or {key}.sm_pct."
        raise Misplaced(f"{key}.sm_pct", tenant.sm_pct, "sm_count says it already", remedy)
    if tenant.sm_pct is not None:
        within(f"{key}.sm_pct", tenant.sm_pct, 0.1, 100)
        return {"sm_pct": tenant.sm_pct}
    count_key, count = own_or_run(tenant.sm_count, f"{key}.sm_count", run, "sharing.sm_count")
    if tenant.sm_count is not None or run:
        within(count_key, count, 1, _MOST_SMS)
        return {"sm_count": count}
    return {"sm_pct": _equal_share(config)}


def _equal_share(config: Config) -> float:
    """100/n percent, rounded down to two decimals so that the shares never sum to more than 100."""
    return 10_000 // sum(tenant.count for tenant in config.mix.tenants.values()) / 100


def _checked_limits(config: Config, named: Mapping[str, tuple[str, Any]]) -> MpsLimits:
    for limit_key, value in named.values():
        if value and config.mps_settings.mode.name == "disabled":
            remedy = "Add mps_settings=default (or external), or drop this limit."
            raise Misplaced(limit_key, value, "this limit needs CUDA MPS, and mps_settings=disabled is without", remedy)
    within(*named["active_thread_pct"], 0, 100)
    within(*named["priority"], 0, 1)
    at_least(*named["sm_partition"], 0)
    memory_key, memory = named["pinned_memory_limit"]
    if memory and limit_mib(memory) is None:
        raise ConfigError(memory_key, memory, "an integer with G or M, such as 4G", "Write it without a decimal point.")
    if config.mps_settings.static_partitioning and named["active_thread_pct"][1]:
        remedy = "Static partitioning ignores percentages: drop the percentage, or static_partitioning."
        raise ConfigError(*named["active_thread_pct"], "0 with static_partitioning", remedy)
    return MpsLimits(**{name: value for name, (_, value) in named.items()})
