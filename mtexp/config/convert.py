"""Converts a composed configuration to a RunSpec, after all checks that need no GPU."""

from __future__ import annotations

import os
from dataclasses import replace
from urllib.parse import urlsplit

from mtexp.config.bounds import check_lower_bounds, check_upper_bounds
from mtexp.config.checks import above, at_least, within
from mtexp.config.churn import churn_spec, with_neighbour
from mtexp.config.designs import design_of
from mtexp.config.hardware import Hardware, choose_device
from mtexp.config.memory import limit_mib, run_mib, tenant_mib
from mtexp.config.precisions import check_precisions
from mtexp.config.schema import (
    Baseline,
    Config,
    MpsMode,
    MpsSettingsConfig,
    Profiler,
    SearchBy,
    SharingMode,
    Shrink,
    Store,
)
from mtexp.config.servers import start_order
from mtexp.config.shared_weights import check_shared
from mtexp.config.tenants import tenant_specs
from mtexp.config.tokens import parse_mix, parse_percentage
from mtexp.errors import ConfigError, Misplaced
from mtexp.host import Device
from mtexp.sharing.partitions import partition_sizes
from mtexp.spec import (
    SWEEP_NAME,
    BaselineSpec,
    DeadlineSpec,
    MeasureSpec,
    ProfilerSpec,
    RunSpec,
    SearchSpec,
    SharingSpec,
    TelemetrySpec,
    TenantSpec,
    TrackingSpec,
)
from mtexp.text_tables import rounded
from mtexp.tracking import uri

_NAMED_SHARES = {"default": 0.0, "half": 50.0, "quarter": 25.0}
_ONE_PROCESS = (SharingMode.streams, SharingMode.green_contexts)
_MIN_GPM_PERIOD_S = 0.2
_MOST_TRACED = 1000
"""Maximum iterations in a capture; every kernel of an iteration is stored as an event."""


def to_spec(config: Config, hardware: Hardware) -> RunSpec:
    """Check ``config`` against ``hardware`` and freeze it.

    Raises:
        ConfigError: Names the key, its value, what is allowed and the remedy.
    """
    check_upper_bounds(config)
    device = choose_device(config.runtime, hardware)
    _check_top(config)
    shrink = config.runtime.shrink
    shrunk = shrink is Shrink.always or (shrink is Shrink.auto and device.kind == "cpu")
    tenants = tenant_specs(config, shrunk=shrunk, limit=hardware.mps_client_limit)
    sharing = _sharing(config, device)
    tenants = _partitioned(config, tenants, device)
    _check_execution(tenants, device)
    check_precisions(tenants, device)
    if config.share_weights:
        check_shared(config, tenants)
    _check_loads(config, tenants)
    _check_traces(config, tenants)
    if not config.churn.repeats:
        _check_durations(config, tenants)
    _check_memory(config, tenants, device)
    churn = churn_spec(config.churn, device.kind, config.mix.name, tenants)
    tenants, design = (with_neighbour(tenants), "sustained") if churn.repeats else (tenants, design_of(config, tenants))
    deadlines, lease = config.deadlines, config.lease
    spec = RunSpec(
        kind="churn" if churn.repeats else "mix",
        mix=_mix_name(config),
        tenants=tenants,
        measure=_measure(config, design),
        sharing=sharing,
        runtime=device.kind,
        start_order=start_order(config, tenants),
        device=device.uuid if config.runtime.device else "",
        shrunk=shrunk and any(t.model.weights == "random" and t.model.server is None for t in tenants),
        launcher=config.runtime.launcher.name,
        deadlines=DeadlineSpec(**vars(deadlines)),
        lease_wait_s=lease.wait,
        telemetry=_telemetry(config),
        profiler=_profiler(config, tenants, device),
        baseline=_baseline(config),
        tracking=_tracking(config),
        search=_search(config),
        churn=churn,
        repetition=config.repetition,
        seed=config.seed,
    )
    check_lower_bounds(config)
    return spec


def _check_top(config: Config) -> None:
    at_least("seed", config.seed, 0)
    at_least("repetition", config.repetition, 0)
    at_least("repetitions", config.repetitions, 1)
    at_least("retries", config.retries, 0)
    at_least("lease.wait", config.lease.wait, 0)
    for name, value in vars(config.deadlines).items():
        above(f"deadlines.{name}", value, 0)
    if config.sweep and not SWEEP_NAME.fullmatch(config.sweep):
        raise ConfigError("sweep", config.sweep, "letters, digits, dot, _ and -", "It names a folder: shorten it.")
    if config.rerun_invalid and not config.resume:
        raise ConfigError("rerun_invalid", "true", "false without resume", "Add resume=true.")


def _mix_name(config: Config) -> str:
    """Return the name of the mix, or a token of its models if tenants were changed on the command line."""
    counts: dict[str, int] = {}
    for tenant in config.mix.tenants.values():
        counts[tenant.name] = counts.get(tenant.name, 0) + tenant.count
    if not config.mix.models or parse_mix(config.mix.models) == counts:
        return config.mix.name
    return "+".join(model if count == 1 else f"{model}*{count}" for model, count in counts.items())


def _search(config: Config) -> SearchSpec:
    c = config.capacity
    if not c.search:
        return SearchSpec()
    value = config.arrival.load if c.by is SearchBy.load else config.arrival.rate
    return SearchSpec(name=c.search, by=c.by.name, value=value, attainment_pct=c.attainment_pct)


# --- measuring --------------------------------------------------------------------------------------------------------


def _measure(config: Config, design: str) -> MeasureSpec:
    m = config.measure
    at_least("measure.iterations", m.iterations, 1)
    at_least("measure.warmup", m.warmup, 0)
    at_least("measure.min_time_s", m.min_time_s, 0)
    within("measure.until_ci_pct", m.until_ci_pct, 0, 100)
    if m.max_iterations < m.iterations:
        remedy = f"Raise it to {m.iterations} or more, or lower measure.iterations."
        raise ConfigError("measure.max_iterations", m.max_iterations, f"at least {m.iterations}", remedy)
    for percentile in m.percentiles:
        instead = f"drop {percentile:g} from measure.percentiles"
        _check_percentile(percentile, m.iterations, "measure.iterations", instead)
    if m.until_ci_pct and m.until_ci_statistic.name != "mean":
        percentile = float(m.until_ci_statistic.name[1:])
        _check_percentile(percentile, m.max_iterations, "measure.max_iterations", "use measure.until_ci_statistic=mean")
    return MeasureSpec(
        iterations=m.iterations,
        warmup=m.warmup,
        overlap=m.overlap.name,
        design=design,
        block_ms=m.block_ms or 0.0,
        target_pct=m.target_pct,
        max_time_s=m.max_time_s,
        percentiles=tuple(m.percentiles),
        min_time_s=m.min_time_s,
        until_ci_pct=m.until_ci_pct,
        until_ci_statistic=m.until_ci_statistic.name,
        max_iterations=m.max_iterations,
        pin_cores=m.pin_cores,
        foreign=m.foreign.name,
        check_outputs=m.check_outputs,
        probe_sms=m.probe_sms,
    )


def _check_percentile(percentile: float, iterations: int, key: str, instead: str) -> None:
    from mtexp.metrics.latency import min_iterations

    if not 0 < percentile < 100:
        raise ConfigError("measure.percentiles", f"{percentile:g}", "between 0 and 100", "Write 99 for p99.")
    needed = min_iterations(percentile)
    if iterations < needed:
        allowed = f"at least {needed} for p{percentile:g} (99 % confidence)"
        raise ConfigError(key, iterations, allowed, f"Set {key}={needed}, or {instead}.")


def _telemetry(config: Config) -> TelemetrySpec:
    t = config.telemetry
    at_least("telemetry.period_s", t.period_s, 0.001)
    at_least("telemetry.gpm_period_s", t.gpm_period_s, _MIN_GPM_PERIOD_S)
    return TelemetrySpec(enabled=t.enabled, period_s=t.period_s, gpm_period_s=t.gpm_period_s)


def _profiler(config: Config, tenants: tuple[TenantSpec, ...], device: Device) -> ProfilerSpec:
    p = config.profiler
    within("profiler.iterations", p.iterations, 1, _MOST_TRACED)
    at_least("profiler.kernels", p.kernels, 1)
    if p.kind is Profiler.torch and config.sharing.mode in _ONE_PROCESS and len(tenants) > 1:
        mode = config.sharing.mode.name
        allowed = f"none, nsys, ncu with sharing={mode} (torch traces processes, and all tenants share one)"
        raise ConfigError("profiler", "torch", allowed, "Use sharing=processes, or profiler=nsys on a GPU.")
    if device.kind == "cpu" and p.kind in (Profiler.nsys, Profiler.ncu):
        raise ConfigError("profiler", p.kind.name, "none, torch on the CPU", "Use profiler=torch, or run on a GPU.")
    return ProfilerSpec(kind=p.kind.name, iterations=p.iterations, gpu_metrics=p.gpu_metrics, kernels=p.kernels)


def _baseline(config: Config) -> BaselineSpec:
    b = config.baseline
    if b.mode is Baseline.require and config.tracking.store is Store.none:
        remedy = "Use baseline=auto, or a store."
        raise ConfigError("baseline", "require", "auto, skip with tracking=none (it keeps no baselines)", remedy)
    at_least("baseline.max_age_h", b.max_age_h, 0)
    at_least("baseline.min_time_s", b.min_time_s, 0)
    return BaselineSpec(**(vars(b) | {"mode": b.mode.name}))


def _tracking(config: Config) -> TrackingSpec:
    t = config.tracking
    at_least("tracking.max_history", t.max_history, 1)
    if not t.experiment:
        raise ConfigError("tracking.experiment", "(empty)", "a name", "Set tracking.experiment=mtexp.")
    _check_uri(t.uri)
    if t.store is Store.server and not t.uri and not os.environ.get("MLFLOW_TRACKING_URI"):
        remedy = "Set tracking.uri=http://HOST:PORT, or export MLFLOW_TRACKING_URI."
        raise ConfigError("tracking.uri", "(empty)", "the URI of a server with tracking=server", remedy)
    enabled = t.store is not Store.none
    return TrackingSpec(uri=t.uri, experiment=t.experiment, max_history=t.max_history, enabled=enabled)


def _check_uri(text: str) -> None:
    """Refuse an invalid URI, and one that may contain a secret, because the record stores it."""
    if why := uri.problem(text):
        raise ConfigError("tracking.uri", uri.shown(text), uri.ALLOWED, f"Correct it: {why}.")
    parts, database = urlsplit(text), uri.is_database(text)
    if database and parts.password is not None:
        remedy = "PostgreSQL reads ~/.pgpass or PGPASSWORD; for other databases export MLFLOW_TRACKING_URI."
        raise ConfigError("tracking.uri", uri.HIDDEN, "a URI without password", remedy)
    if "@" in parts.netloc and not database:
        remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment."
        raise ConfigError("tracking.uri", uri.HIDDEN, "a URI without user and password", remedy)
    if (parts.query or parts.fragment) and parts.scheme != "sqlite":
        remedy = "It may contain a secret, and the record stores it: export the whole URI as MLFLOW_TRACKING_URI."
        raise ConfigError("tracking.uri", uri.HIDDEN, "a URI without ? and #", remedy)


# --- sharing ----------------------------------------------------------------------------------------------------------


def _sharing(config: Config, device: Device) -> SharingSpec:
    mode, mps = config.sharing.mode, config.mps_settings
    if mode is not SharingMode.processes and mps.mode is not MpsMode.disabled:
        why = "CUDA MPS needs several processes" if mode in _ONE_PROCESS else "an instance has one tenant"
        allowed = f"disabled with sharing={mode.name} ({why})"
        raise ConfigError("mps_settings", mps.name, allowed, "Use mps_settings=disabled, or sharing=processes.")
    if mode is SharingMode.green_contexts and device.kind == "cpu":
        remedy = "Green contexts divide the SMs of a GPU: run on one, or use sharing=streams."
        raise ConfigError("sharing", "green_contexts", "processes, streams on the CPU", remedy)
    if mode is SharingMode.mig and device.kind == "cpu":
        raise ConfigError("sharing", "mig", "processes, streams on the CPU", "MIG needs a GPU with MIG enabled.")
    if mps.static_partitioning and mps.mode is MpsMode.disabled:
        remedy = "Add mps_settings=default, or drop it."
        raise ConfigError("mps_settings.static_partitioning", "true", "false with mps_settings=disabled", remedy)
    if mps.pipe_directory and mps.mode is not MpsMode.external:
        remedy = "Use mps_settings=external, or leave it empty: mtexp creates its own directory."
        raise Misplaced("mps_settings.pipe_directory", mps.pipe_directory, "only an external daemon has one", remedy)
    if _mps_name(mps) == "0pct" or parse_percentage(mps.name) == 0:
        remedy = "For no limit use mps_settings=default."
        raise ConfigError("mps_settings", "0pct", "a share above 0 and at most 100 %", remedy)
    return SharingSpec(
        mode=mode.name,
        mps=_mps_name(mps),
        mps_mode=mps.mode.name,
        pipe_directory=mps.pipe_directory,
        static_partitioning=mps.static_partitioning,
        share_weights=config.share_weights,
    )


def _partitioned(config: Config, tenants: tuple[TenantSpec, ...], device: Device) -> tuple[TenantSpec, ...]:
    """Return ``tenants`` with the SMs of their green contexts, where the SMs of the device are known."""
    if config.sharing.mode is not SharingMode.green_contexts or device.sm_count is None:
        return tenants
    sizes = partition_sizes(tenants, device.sm_count)
    return tuple(replace(tenant, sm_count=sizes[tenant.id], sm_pct=0.0) for tenant in tenants)


def _mps_name(mps: MpsSettingsConfig) -> str:
    """Return the setting's name, or e.g. ``30pct`` if a percentage overrides that of a named choice."""
    named = _NAMED_SHARES.get(mps.name)
    pct = mps.active_thread_pct
    return mps.name if named is None or named == pct else f"{pct:g}pct"


# --- what the device can do -------------------------------------------------------------------------------------------


def _check_execution(tenants: tuple[TenantSpec, ...], device: Device) -> None:
    for tenant in tenants:
        if device.kind == "cpu" and tenant.execution == "cuda_graph":
            raise ConfigError("execution", "cuda_graph", "eager, compile on the CPU", "CUDA graphs need a GPU.")


def _check_loads(config: Config, tenants: tuple[TenantSpec, ...]) -> None:
    for tenant in tenants:
        if tenant.arrival.load and config.baseline.mode is Baseline.skip:
            remedy = "Use baseline=auto, or give arrival.rate in requests a second."
            raise ConfigError("arrival.load", tenant.arrival.load, "0 with baseline=skip (nothing to scale)", remedy)
        if tenant.slo_factor and config.baseline.mode is Baseline.skip:
            key, remedy = f"{tenant.id}: slo_factor", "Use baseline=auto, or give slo_ms."
            raise ConfigError(key, tenant.slo_factor, "0 with baseline=skip (nothing to multiply)", remedy)


def _check_traces(config: Config, tenants: tuple[TenantSpec, ...]) -> None:
    """Refuse a trace that is too short or too slow for the requested measurement."""
    iterations, longest_s = config.measure.iterations, config.deadlines.measure_s
    for tenant in tenants:
        times = tenant.arrival.trace
        if not times:
            continue
        name = f"the trace of {tenant.id}"
        if len(times) < iterations:
            remedy = f"Set measure.iterations={len(times)}, or give a longer trace."
            raise ConfigError("measure.iterations", iterations, f"at most {len(times)}, which {name} has", remedy)
        if times[-1] < config.measure.min_time_s:
            remedy = "Lower it, or give a longer trace."
            allowed = f"at most {times[-1]:g}, when {name} ends"
            raise ConfigError("measure.min_time_s", config.measure.min_time_s, allowed, remedy)
        if times[iterations - 1] > longest_s:
            value = f"arrival {iterations} at {times[iterations - 1]:.15g} s"
            allowed = f"{iterations} arrivals within deadlines.measure_s={longest_s:g}"
            remedy = "Times are seconds from the start of the run: shift or scale them, or raise deadlines.measure_s."
            raise ConfigError("arrival.trace", f"{value} ({tenant.id})", allowed, remedy)


def _check_durations(config: Config, tenants: tuple[TenantSpec, ...]) -> None:
    """Refuse what takes longer than ``deadlines.measure_s``: the run would wait so long, and fail."""
    iterations, longest_s = config.measure.iterations, config.deadlines.measure_s
    times = {"measure.min_time_s": config.measure.min_time_s}
    if config.baseline.mode is not Baseline.skip:
        times["baseline.min_time_s"] = config.baseline.min_time_s
    for key, time_s in times.items():
        if time_s > longest_s:
            allowed = f"at most {longest_s:g}, which is deadlines.measure_s"
            raise ConfigError(key, time_s, allowed, "Lower it, or raise deadlines.measure_s.")
    for tenant in tenants:
        rate = tenant.arrival.rate_rps
        if rate and not tenant.arrival.trace and iterations / rate > longest_s:
            allowed = f"at least {rounded(iterations / longest_s, 3)}: {iterations} requests within {longest_s:g} s"
            remedy = "Raise it, lower measure.iterations, or raise deadlines.measure_s."
            raise ConfigError("arrival.rate", f"{rate:g} ({tenant.id})", allowed, remedy)


def _check_memory(config: Config, tenants: tuple[TenantSpec, ...], device: Device) -> None:
    needs = {tenant.id: tenant_mib(tenant) for tenant in tenants}
    for tenant in tenants:
        limit = limit_mib(tenant.mps.pinned_memory_limit)
        if limit is not None and needs[tenant.id] > limit:
            allowed = f"at least {needs[tenant.id]:.0f} MiB, which {tenant.id} needs"
            raise ConfigError("pinned_memory_limit", tenant.mps.pinned_memory_limit, allowed, "Raise the limit.")
    one_process, gpu = config.sharing.mode in _ONE_PROCESS, device.kind == "gpu"
    total = run_mib(tenants, one_process=one_process, gpu=gpu, share_weights=config.share_weights)
    if total > device.memory_mib:
        raise ConfigError(*_does_not_fit(config, needs, total, device))


def _does_not_fit(config: Config, needs: dict[str, float], total: float, device: Device) -> tuple[str, str, str, str]:
    largest = max(needs, key=lambda name: needs[name])
    value = f"{config.mix.name} (about {total:.0f} MiB, of which {largest} {needs[largest]:.0f})"
    allowed = f"what fits into the {device.memory_mib} MiB of {device.name}"
    remedy = "Lower workload.batch_size or seq_len, drop tenants, choose smaller models or another precision"
    if device.kind == "cpu" and config.runtime.shrink is Shrink.none:
        remedy += ", or use runtime.shrink=auto"
    return "mix", value, allowed, remedy + "."
