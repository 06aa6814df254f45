"""Builds the content of MLflow runs from a record: names, tags, parameters, metrics, description.

Lives here: record -> :class:`RunContent`, for the parent and for each tenant, and the thinning of histories.
May touch: nothing. :mod:`mtexp.tracking.mlflow_writer` sends what is built here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtexp.errors import TrackingError
from mtexp.metrics.finding import sentences
from mtexp.records import keys
from mtexp.records.record import BaselineRef, RunRecord, TenantRecord
from mtexp.spec import RunSpec, TenantSpec, content_hash, to_json
from mtexp.text_tables import rounded

MAX_TAG = 4_000
"""Maximum length of a tag in characters; MLflow's own limit is 8,000, older servers take 5,000."""
MAX_NAME = 250
"""Maximum length of a run's name in characters: PostgreSQL refuses a longer one, SQLite does not."""

_TABLE = (
    ("mean ms", "latency_mean_ms"),
    ("p50 ms", "latency_p50_ms"),
    ("p90 ms", "latency_p90_ms"),
    ("p99 ms", "latency_p99_ms"),
    ("rps", "throughput_rps"),
    ("slowdown", "slowdown"),
    ("service slowdown", "service_slowdown"),
    ("p50 alone, ms", "alone_latency_p50_ms"),
    ("p99 alone, ms", "alone_latency_p99_ms"),
    ("latency slowdown", "latency_slowdown"),
    ("launch-bound %", "launch_bound_pct"),
)
_TENANT_LINE = (
    ("slowdown", "slowdown"),
    ("p50 ms", "latency_p50_ms"),
    ("p99 ms", "latency_p99_ms"),
    ("rps", "throughput_rps"),
)
_WHERE_MEASURED = (
    *("launch_bound_pct", "service_slowdown", "latency_slowdown", "alone_latency_p50_ms", "alone_latency_p99_ms"),
)
_PROFILE_TABLE = (
    ("busy %", "busy_pct"),
    ("kernel overlap %", "kernel_overlap_pct"),
    ("traced slowdown", "traced_slowdown"),
    ("FLOP/byte", "intensity_flop_per_byte"),
)
"""The description of a profile, which has no latencies."""
_HEADLINE = (
    *(("STP", "stp"), ("ANTT", "antt"), ("fairness", "fairness"), ("overlap %", "overlap_pct")),
    *(("kernel overlap %", "kernel_overlap_pct"), ("GPU idle %", "gpu_idle_pct")),
)


@dataclass(frozen=True, slots=True)
class RunContent:
    """One MLflow run without its histories and artifacts."""

    name: str
    """At most :data:`MAX_NAME` characters."""
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


def parent_content(record: RunRecord, path: str, *, thinned: Mapping[str, int], max_history: int) -> RunContent:
    """Return the parent run of ``record``, stored at ``path``.

    ``thinned`` has, for each metric whose history exceeds ``max_history`` points, how many were measured.

    Raises:
        TrackingError: A metric is not in the registry.
    """
    spec = record.run_spec
    tags = {
        **_common_tags(record),
        keys.KIND: record.kind,
        keys.INTERVAL_SCOPE: _interval_scope(record, record.metrics),
        keys.BASELINE_HASH: record.baseline_hash,
        keys.RECORD_PATH: path,
        keys.SWEPT: keys.SWEPT_GAP.join(_swept(record)),
        keys.PROFILE_OF: record.profile_of,
        keys.FAILURE: record.failure,
        keys.AGAINST: _against(spec),
        keys.HISTORY_THINNED: _thinned_text(thinned, max_history),
        "mlflow.note.content": description(record),
        "mlflow.source.name": "mtexp",
        "mlflow.source.git.commit": str(record.environment.get("git_commit", "")),
    }
    metrics, params = {**record.metrics, **record.telemetry}, _params(spec, spec.tenants) | _block_params(record)
    name = _cut(run_name(record, spec), MAX_NAME)
    return RunContent(name, record.status, _kept(tags), params, _known(metrics, params))


def tenant_content(
    record: RunRecord, tenant: TenantRecord, parent_id: str, *, thinned: Mapping[str, int], max_history: int
) -> RunContent:
    """Return the child run of one tenant.

    Raises:
        TrackingError: A metric is not in the registry.
    """
    spec = record.run_spec
    own = [t for t in spec.tenants if t.id == tenant.id]
    tags = {
        **_common_tags(record),
        keys.KIND: record.kind if record.kind == "profile" else keys.TENANT,  # only measured tenants
        keys.RUN_KIND: record.kind,
        keys.INTERVAL_SCOPE: _interval_scope(record, tenant.metrics),
        keys.FAILURE: f"{tenant.phase}: {tenant.error}" if tenant.status == "FAILED" else "",
        keys.INSUFFICIENT: ", ".join(tenant.insufficient),
        keys.REQUEST: own[0].request if own else "",
        **_baseline_tags(tenant.baseline),
        keys.PARTITIONED_BASELINE_RUN_ID: tenant.partitioned_baseline.run_id if tenant.partitioned_baseline else "",
        keys.ARRIVALS_BASELINE_RUN_ID: tenant.arrivals_baseline.run_id if tenant.arrivals_baseline else "",
        keys.ARRIVALS_BASELINE_RECORD_ID: tenant.arrivals_baseline.record_id if tenant.arrivals_baseline else "",
        keys.HISTORY_THINNED: _thinned_text(thinned, max_history),
        "mlflow.parentRunId": parent_id,
        "mlflow.source.name": "mtexp",
        "mlflow.note.content": _tenant_description(record, tenant),
    }
    params = _params(spec, own) | _block_params(record) | {"tenant": tenant.id, "model": tenant.model}
    if own:
        params |= _own_params(own[0], spec)
    name = _cut(" · ".join([f"{tenant.id} {tenant.model}", *_swept(record)]), MAX_NAME)
    return RunContent(name, tenant.status, _kept(tags), _kept(params), _known(tenant.metrics, params))


def _swept(record: RunRecord) -> list[str]:
    return [f"{name}={value}" for name, value in record.swept.items()]


def _interval_scope(record: RunRecord, metrics: Mapping[str, float]) -> str:
    """What the intervals among ``metrics`` cover; empty where there is none."""
    if not any(name.endswith("_ci_low") for name in metrics):
        return ""
    return keys.OVER_ROUNDS if any(block.cores for block in record.blocks) else keys.WITHIN_RUN


def run_name(record: RunRecord, spec: RunSpec) -> str:
    """Return the name of the run in the UI: ``mixed · disabled · fp16``, what was swept first.

    The list of runs cuts names at their end.
    """
    head = {
        "baseline": f"baseline {spec.mix}",
        "profile": f"{spec.profiler.kind} {spec.mix}",
        "churn": f"churn {spec.mix}",
    }.get(record.kind, spec.mix)
    how = spec.sharing.mps if spec.sharing.mode == "processes" else spec.sharing.mode
    named = {"mps_settings": how, "precision": _joined(t.precision for t in spec.tenants)}
    if record.kind == "baseline" and how == "disabled":
        del named["mps_settings"]
    own = {"mps_settings" if name == "sharing" else name: value for name, value in record.swept.items()}
    first = {name: named.get(name, f"{name}={own[name]}") for name in own if name not in ("mix", "repetition")}
    if spec.repetition or "repetition" in own:
        named["repetition"] = f"repetition {spec.repetition}"
    order = [*first, *(name for name in ("mix", "repetition") if name in own), "mix", *named]
    texts = {"mix": head} | named | first
    parts = [texts[name] for name in dict.fromkeys(order)]
    if spec.search.name and record.kind == "mix":
        parts.append(f"{spec.search.by} {spec.search.value:g}")
    return " · ".join(parts)


def description(record: RunRecord) -> str:
    """Return the run's description: verdict, main metrics, a table of its tenants (Markdown)."""
    figures = keys.current(record.metrics, _params(record.run_spec, record.run_spec.tenants).get("arrival", "closed"))
    headline = [_headline(label, key, figures) for label, key in _HEADLINE if key in figures]
    if (
        len(record.run_spec.tenants) == len(record.tenants) == 1 and record.kind != "profile"
    ):  # they compare with neighbours, and there is none
        headline = _tenant_headline(record, record.tenants[0])
    lines = [" · ".join([record.verdict, *headline]), ""]  # no markup: the list of runs shows this line as it is
    if any("[" in text for text in headline):
        lines += [f"{keys.INTERVAL_TEXTS[_interval_scope(record, record.metrics)]}.", ""]
    if record.failure:
        lines += [f"Failed: {' '.join(record.failure.split())}", ""]
    measured = {key for tenant in record.tenants for key in tenant.metrics}
    table = _PROFILE_TABLE if record.kind == "profile" else _TABLE
    columns = [(label, key) for label, key in table if key not in _WHERE_MEASURED or key in measured]
    lines.append(f"| tenant | model | {' | '.join(label for label, _ in columns)} |")
    lines.append("|---|---|" + "---:|" * len(columns))
    for tenant in record.tenants:
        arrival = next((t.arrival.kind for t in record.run_spec.tenants if t.id == tenant.id), "closed")
        own = keys.current(tenant.metrics, arrival)
        cells = [_cell(tenant, key) if key in own else "" for _, key in columns]
        lines.append(f"| {tenant.id} | {tenant.model} | {' | '.join(cells)} |")
    if any(key in tenant.insufficient for tenant in record.tenants for _, key in columns):
        lines += ["", "? = too few iterations for this percentile; measure.iterations=700 supports p99."]
    if record.findings:
        lines += ["", *(f"- {finding}" for finding in record.findings)]
    return "\n".join(lines)


def _tenant_description(record: RunRecord, tenant: TenantRecord) -> str:
    """One line: verdict, slowdown and latency of a tenant."""
    return " · ".join([record.verdict, *_tenant_headline(record, tenant)])


def _tenant_headline(record: RunRecord, tenant: TenantRecord) -> list[str]:
    """Slowdown and latency of a tenant; a percentile only where it has enough iterations."""
    arrival = next((t.arrival.kind for t in record.run_spec.tenants if t.id == tenant.id), "closed")
    own = keys.current(tenant.metrics, arrival)
    shown = [(label, key) for label, key in _TENANT_LINE if key in own and key not in tenant.insufficient]
    return [_headline(label, key, own) for label, key in shown]


def _headline(label: str, key: str, figures: Mapping[str, float]) -> str:
    low, high = (figures.get(end) for end in keys.interval(key))
    text = f"{label} {rounded(figures[key], 3)}"
    return text if low is None or high is None else f"{text} [{rounded(low, 3)}, {rounded(high, 3)}]"


def _cell(tenant: TenantRecord, key: str) -> str:
    return f"{rounded(tenant.metrics[key], 4)}{'?' if key in tenant.insufficient else ''}"


def _common_tags(record: RunRecord) -> dict[str, Any]:
    spec = record.run_spec
    environment = record.environment
    return {
        keys.SWEEP: record.sweep,
        keys.VERDICT: record.verdict,
        keys.VERDICT_REASONS: " | ".join(sentences(f for f in record.findings if f.level != "note")),
        keys.SPEC_HASH: record.spec_hash,
        keys.RECORD_ID: record.record_id,
        keys.FORMAT_VERSION: record.format_version,
        keys.DEVICE: environment.get("gpu_name", "cpu") if spec.runtime == "gpu" else "cpu",
        keys.GPU_UUID: environment.get("gpu_uuid", ""),
        keys.SHRUNK: spec.shrunk,
        keys.RUNTIME: spec.runtime,
        keys.REPETITION: spec.repetition,
        keys.TIME_SLICE: record.sharing.get("observed_before", {}).get("time_slice", ""),
        keys.SESSION: record.session,
        keys.SESSION_REFERENCE: record.session_reference,
        keys.SEARCH: spec.search.name if spec.kind == "mix" else "",
        keys.ATTEMPT: record.attempt,
        keys.SWEEP_POSITION: "" if record.sweep_position is None else record.sweep_position,
        **{tag: environment.get(name, "") for name, tag in keys.ENVIRONMENT_TAGS.items()},
    }


def _baseline_tags(baseline: BaselineRef | None) -> dict[str, str]:
    if baseline is None:
        return {}
    return {
        keys.BASELINE_HASH: baseline.baseline_hash,
        keys.BASELINE_RUN_ID: baseline.run_id,
        keys.BASELINE_RECORD_ID: baseline.record_id,
    }


def _thinned_text(thinned: Mapping[str, int], max_history: int) -> str:
    return ", ".join(f"{name}: {max_history} of {count} points" for name, count in thinned.items())


_TENANT_PARAMS: tuple[tuple[str, Callable[[TenantSpec], object]], ...] = (
    ("precision", lambda t: t.precision),
    ("workload", lambda t: t.workload.kind),
    ("arrival", lambda t: t.arrival.kind),
    ("execution", lambda t: t.execution),
    ("batch_size", lambda t: t.workload.batch_size),
    ("seq_len", lambda t: t.workload.seq_len),
)


def _params(spec: RunSpec, tenants: Iterable[TenantSpec]) -> dict[str, str]:
    """Parameters of a run with ``tenants``; if tenants differ, all their values."""
    tenants = tuple(tenants)
    params = {name: _joined(str(value(t)) for t in tenants) for name, value in _TENANT_PARAMS}
    params |= {
        "mix": spec.mix,
        "mps_settings": spec.mps_settings,
        "sharing": spec.sharing.mode,
        "overlap": spec.measure.overlap,
        "design": "fixed" if spec.measure.overlap == "fixed" else spec.measure.design,
        "iterations": str(spec.measure.iterations),
        "warmup": str(spec.measure.warmup),
        "num_tenants": str(len(spec.tenants)),
    }
    if rates := {t.arrival.rate_rps for t in tenants if t.arrival.rate_rps}:
        params["rate_rps"] = _joined(f"{rate:g}" for rate in rates)
    if loads := {t.arrival.load for t in tenants if t.arrival.load}:
        params["load"] = _joined(f"{load:g}" for load in loads)
    if spec.search.name and spec.kind == "mix":
        params |= {"search_by": spec.search.by, "search_value": f"{spec.search.value:g}"}
        params["search_attainment_pct"] = f"{spec.search.attainment_pct:g}"
    return _kept(params)


def _against(spec: RunSpec) -> str:
    """What the slowdowns of a mix compare with."""
    if spec.kind != "mix" or (spec.measure.design == "sustained" and spec.baseline.mode == "skip"):
        return ""
    return "alone_in_mode" if spec.measure.design == "crossover" else "baseline"


def _block_params(record: RunRecord) -> dict[str, str]:
    """Rounds of a crossover run, and how long its blocks of all tenants were."""
    everyone = [block for block in record.blocks if len(block.active) == len(record.tenants)]
    if not everyone:
        return {}
    lengths_ms = [(block.end_ns - block.start_ns) / 1e6 for block in everyone]
    return {"rounds": str(1 + record.blocks[-1].round), "block_ms": f"{np.median(lengths_ms):.0f}"}


def _own_params(tenant: TenantSpec, spec: RunSpec) -> dict[str, str]:
    """Further settings that distinguish a tenant from others of its model; unset ones are empty."""
    weights = ["pretrained"] * (tenant.model.weights == "pretrained") + ["shared"] * spec.sharing.share_weights
    mps, trace, lengths = tenant.mps, tenant.arrival.trace, tenant.arrival.lengths
    return {
        "role": tenant.model.role,
        "attn_implementation": tenant.model.attn_implementation,
        "active_thread_pct": f"{mps.active_thread_pct:g}",
        "mps_priority": str(mps.priority or ""),
        "pinned_memory_limit": mps.pinned_memory_limit,
        "sm_partition": str(mps.sm_partition or ""),
        "partition_sms": str(tenant.sm_count or ""),
        "mig": tenant.mig,
        "new_tokens": str(tenant.workload.new_tokens) if tenant.workload.kind == "generate" else "",
        "parameters": str(tenant.model.parameters or ""),
        "weights": ", ".join(weights),
        "trace": content_hash([trace, to_json(lengths)] if len(lengths) else trace)[:8] if trace else "",
        "padded_to": ",".join(map(str, lengths.buckets)),
    }


def _joined(values: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(values))


def _kept(items: Mapping[str, Any]) -> dict[str, str]:
    """Drop unknown values; shorten those that MLflow would refuse."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in items.items()}
    return {name: _cut(text, MAX_TAG) for name, text in texts.items() if text}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _known(metrics: Mapping[str, float], params: Mapping[str, str]) -> dict[str, float]:
    metrics = keys.current(metrics, params.get("arrival", "closed"))
    if unknown := keys.unknown(metrics):
        raise TrackingError("; ".join(unknown))
    return dict(metrics)


# --- thinning ---------------------------------------------------------------------------------------------------------


def evenly(count: int, most: int) -> np.ndarray[Any, Any]:
    """Return ``most`` positions, evenly spread, the first and the last among them; all of them if they fit."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, max(most, 1)).round().astype(np.int64))
