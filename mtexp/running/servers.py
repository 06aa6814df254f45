"""Servers in the story of a run: started in their order, and what is seen of them from outside. May touch: launch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mtexp.launch import CorePlan, Servers
from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Samples
from mtexp.sharing import SharingMode
from mtexp.spec import RunSpec, TenantSpec
from mtexp.telemetry import GpuProcess
from mtexp.text_tables import rounded

LAG_LIMIT = 0.05
"""The client's own lag as a share of the mean latency, above which a run is INVALID ..."""
LAG_MS = 0.2
"""... if it is more than this."""
BUSY_LIMIT_PCT = 90.0
"""Share of the time for which the client's core may be busy where several requests are in flight."""


def start_servers(
    spec: RunSpec, sharing: SharingMode, cores: CorePlan, servers: Servers, progress: Callable[[str], None]
) -> None:
    """Start the servers of ``spec`` one after another, each when the one before it is ready.

    Raises:
        TenantFailed: One did not become ready.
    """
    tenants = {tenant.id: tenant for tenant in spec.tenants}
    places = {group[0]: index for index, group in enumerate(sharing.groups())}
    for name in spec.start_order:
        progress(f"starting the server of {name}")
        own = cores.servers[places[name]] if cores.servers else ()
        servers.start(tenants[name], sharing.environment([name]), own or cores.everywhere)
        if spec.runtime == "gpu" and spec.sharing.mps_mode == "disabled":
            servers.settle(name, sharing.environment([name]))


def server_cores(spec: RunSpec, sharing: SharingMode) -> list[int]:
    """Cores of the server of each process; empty where there is none at all."""
    if not spec.start_order:
        return []
    servers = {tenant.id: tenant.model.server for tenant in spec.tenants}
    return [server.cores if (server := servers[group[0]]) is not None else 0 for group in sharing.groups()]


def with_servers(
    facts: Mapping[str, Mapping[str, Any]], servers: Servers, listed: Sequence[GpuProcess]
) -> dict[str, dict[str, Any]]:
    """Facts of tenants with what is seen of their servers from outside.

    Args:
        facts: Of each tenant, as it says itself.
        servers: Of the run.
        listed: What NVML lists on the device.
    """
    kinds: dict[int, set[str]] = {}
    for process in listed:
        kinds.setdefault(process.pid, set()).add(process.kind)
    found = {tenant: dict(own) for tenant, own in facts.items()}
    for tenant, seen in servers.facts().items():
        on_device = {pid: sorted(kinds[pid]) for pid in seen["server_pids"] if pid in kinds}
        found[tenant] = found.get(tenant, {}) | seen
        if on_device:
            found[tenant]["server_nvml"] = {str(pid): kind for pid, kind in on_device.items()}
    return found


def server_findings(
    spec: RunSpec, samples: Mapping[str, Samples], facts: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    """What the clients say of themselves and of the answers.

    Args:
        spec: The run.
        samples: By tenant.
        facts: Of each tenant after the window.
    """
    for tenant in spec.tenants:
        own = facts.get(tenant.id, {})
        if tenant.model.server is None or not own or tenant.id not in samples:
            continue
        yield from _lag(tenant, own, samples[tenant.id])
        yield from _tokens(tenant, own)


def _lag(tenant: TenantSpec, facts: Mapping[str, Any], samples: Samples) -> Iterator[Finding]:
    counted = samples.select(samples.phase != 0)
    if "client_late_mean_ms" not in facts or not len(counted):
        return
    latency_ms = float(counted.latency_ms.mean())
    lag_ms = facts["client_late_mean_ms"] + facts["client_wait_ms"]
    busy_pct = facts.get("client_busy_pct", 0.0)
    remedy = "Give it a core of its own (fewer tenants, a host with more cores), or ask for less (server.concurrency)."
    if lag_ms > max(LAG_MS, LAG_LIMIT * latency_ms):
        yield Finding(
            "invalid",
            "client-lag",
            f"the client of {tenant.id} was {lag_ms:.2f} ms late for a request of {rounded(latency_ms, 3)} ms "
            f"({facts['client_late_mean_ms']:.2f} ms to send, {facts['client_wait_ms']:.2f} ms without a core); "
            f"expected at most {max(LAG_MS, LAG_LIMIT * latency_ms):.2f} ms",
            remedy,
            tenant.id,
        )
    elif tenant.model.server and tenant.model.server.concurrency > 1 and busy_pct > BUSY_LIMIT_PCT:
        yield Finding(
            "invalid",
            "client-lag",
            f"the client of {tenant.id} was busy for {busy_pct:.0f} % of the time: answers waited for it, which is in "
            f"their latency; expected at most {BUSY_LIMIT_PCT:g} %",
            remedy,
            tenant.id,
        )


def _tokens(tenant: TenantSpec, facts: Mapping[str, Any]) -> Iterator[Finding]:
    asked = tenant.arrival.lengths.ranges.get("new_tokens", tenant.workload.new_tokens)
    least, most = facts.get("answer_tokens_min"), facts.get("answer_tokens_max")
    if tenant.workload.kind == "generate" and facts.get("answers_off"):
        yield Finding(
            "warning",
            "answer-tokens",
            f"answers of {tenant.id} had {least} to {most} tokens; {asked} were asked for, and the time per token and "
            "tokens a second are computed with that",
            "Have the server ignore the end of a text, e.g. server.request.json.ignore_eos=true where it knows that.",
            tenant.id,
        )
