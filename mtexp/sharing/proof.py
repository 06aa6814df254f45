"""Checks that tenants shared the device in the requested mode. Works on plain data; pure.

Each check adds a sentence with the observed fact, the expected one and the remedy. Equal sentences before and after the
window become one finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from mtexp.metrics.finding import Finding
from mtexp.sharing.known_numerics import SM_UNIT

SM_CHUNK = 8
"""SMs of one chunk of static partitioning, from Hopper on; also the minimum for small percentages (measured)."""


class Notes:
    """Collects findings before and after the window."""

    def __init__(self) -> None:
        self._moment = ""
        self._found: dict[tuple[str, str, str, str, str], list[str]] = {}

    def set_phase(self, moment: str) -> None:
        """Set when the next findings were made: ``before`` or ``after`` the window; empty = over the whole run."""
        self._moment = moment

    def add(self, code: str, message: str, remedy: str, tenant: str = "", *, level: str = "invalid") -> None:
        """Add one finding."""
        moments = self._found.setdefault((level, code, message, remedy, tenant), [])
        if self._moment and self._moment not in moments:
            moments.append(self._moment)

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings in the order in which they were added."""
        return tuple(
            Finding(level=level, code=code, message=_sentence(tenant, moments, message), remedy=remedy, tenant=tenant)
            for (level, code, message, remedy, tenant), moments in self._found.items()
        )


def _sentence(tenant: str, moments: Iterable[str], message: str) -> str:
    when = " and ".join(moments)
    return "".join((f"tenant {tenant}, " if tenant else "", f"{when} the window: " if when else "", message))


def expected_sm_counts(total: int, active_thread_pct: float) -> range:
    """Return the SM counts that a client may see at ``active_thread_pct`` of ``total`` SMs.

    The driver rounds down to hardware units (measured on 132 SMs: 100 -> 132, 50 -> 66, 20 -> 26, 13 -> 16), but gives
    no client fewer than a chunk (2.08 -> 8). Two units below the exact share are allowed for other units on other GPUs;
    nothing above it is, so a missing cap is never accepted.
    """
    if active_thread_pct >= 100:
        return range(total, total + 1)
    exact = math.floor(total * active_thread_pct / 100 + 0.1)  # 0.1: 33.333 % of 132 is 44
    high = min(max(exact, SM_CHUNK), total - 1)
    return range(max(1, exact - 2 * SM_UNIT), high + 1)


def check_device(notes: Notes, tenant: str, facts: Mapping[str, Any], uuid: str, parent_uuid: str = "") -> None:
    """The tenant ran on the leased device; for a MIG instance, CUDA may report the UUID of its GPU."""
    found = facts.get("gpu_uuid")
    if found is not None and bare_uuid(found) not in (bare_uuid(uuid), bare_uuid(parent_uuid)):
        remedy = "Unset CUDA_VISIBLE_DEVICES and run again"
        notes.add("wrong-device", f"it ran on {found}, not on {uuid}", remedy, tenant)


def bare_uuid(uuid: str) -> str:
    """Return a GPU's or MIG instance's UUID without its prefix, which torch leaves out."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def check_no_mps(notes: Notes, tenant: str, facts: Mapping[str, Any]) -> None:
    """The tenant was no MPS client: the device attribute MPS_ENABLED is 0."""
    enabled = facts.get("mps_enabled")
    if enabled is None:
        notes.add(
            "mps-attribute-missing",
            "the device attribute MPS_ENABLED could not be read; expected 0",
            "The driver is too old to verify the mode: CUDA 12 or later is needed",
            tenant,
        )
    elif enabled:
        notes.add(
            "mps-not-expected",
            f"it was a client of CUDA MPS (MPS_ENABLED = {enabled}); expected none",
            "It connected to a daemon: something set CUDA_MPS_PIPE_DIRECTORY after mtexp did. Use a clean environment",
            tenant,
        )


def check_whole_device(notes: Notes, tenant: str, facts: Mapping[str, Any], total: int | None) -> None:
    """The tenant saw all SMs of the device."""
    found = facts.get("sm_count")
    if found is not None and total is not None and found != total:
        notes.add(
            "sm-count",
            f"it saw {found} SMs; expected all {total}",
            "Unset CUDA_MPS_ACTIVE_THREAD_PERCENTAGE and CUDA_VISIBLE_DEVICES and run again",
            tenant,
        )


def check_mps_attribute(notes: Notes, tenant: str, facts: Mapping[str, Any], pipe: str) -> None:
    """The tenant was an MPS client: the device attribute MPS_ENABLED is 1."""
    enabled = facts.get("mps_enabled")
    if enabled != 1:
        found = "could not be read" if enabled is None else f"= {enabled}"
        notes.add(
            "mps-not-enabled",
            f"it ran without CUDA MPS (MPS_ENABLED {found}); expected 1",
            f"It did not reach the daemon in {pipe}, and CUDA then runs without MPS: see mps-control.log, check that "
            "the tenant's user may enter that directory",
            tenant,
        )


def check_sm_cap(
    notes: Notes, tenant: str, facts: Mapping[str, Any], total: int | None, expected: range | None
) -> None:
    """The tenant saw its share of the SMs; ``expected`` None = the total is unknown."""
    found = facts.get("sm_count")
    if expected is None:
        notes.add(
            "sm-count-unknown",
            "its SM cap could not be checked: the number of SMs of the whole device is not known",
            "NVML must report it: update nvidia-ml-py",
            tenant,
        )
    elif found is None or found not in expected:
        wanted = f"{expected[0]}" if len(expected) == 1 else f"{expected[0]} to {expected[-1]}"
        notes.add(
            "sm-count",
            f"it saw {'an unknown number of' if found is None else found} SMs; expected {wanted} of {total or 'all'}",
            "The active thread percentage was not in effect as asked: look for CUDA_MPS_ACTIVE_THREAD_PERCENTAGE in "
            "the environment, and at the daemon's own (get_default_active_thread_percentage)",
            tenant,
        )


def device_pids(facts: Mapping[str, Any]) -> list[Any]:
    """Processes of a tenant that are on the device: its own; of a server those that NVML lists, else that use CUDA."""
    if "server_pid" not in facts:
        return [facts.get("pid")]
    return [int(pid) for pid in facts.get("server_nvml", {})] or list(facts.get("server_cuda_pids", ()))


def check_clients(notes: Notes, facts: Mapping[str, Mapping[str, Any]], observed: Mapping[str, Any]) -> None:
    """Every tenant's pid is in the daemon's ``ps``, and no other."""
    listed = {client["pid"] for client in observed.get("clients", ())}
    ours = [(tenant, pid) for tenant, known in facts.items() for pid in device_pids(known)]
    pids = {pid for _, pid in ours}
    if not listed.intersection(pids) and len(listed) == len(pids):
        all_enabled = all(known.get("mps_enabled") == 1 for known in facts.values() if "server_pid" not in known)
        notes.add(
            "mps-pid-namespace",
            f"the daemon lists {len(listed)} clients, as many as there are tenants, but none of their pids is known "
            f"({_some(listed)} against {_some(pids)}): it numbers processes in another pid namespace",
            "Run the daemon in the same container as mtexp, or mtexp in the host's pid namespace",
            level="warning" if all_enabled else "invalid",
        )
        return
    for tenant, pid in ours:
        if pid not in listed:
            notes.add(
                "mps-client-missing",
                f"its pid {pid} is not among the {len(listed)} clients that the daemon lists ({_some(listed)})",
                "It was not attached to this daemon: see mps-server.log",
                tenant,
            )
    below = {pid for known in facts.values() for pid in known.get("server_pids", ())}
    if foreign := listed.difference(pids, below):
        notes.add(
            "mps-foreign-client",
            f"{len(foreign)} other processes were clients of the same daemon: pids {_some(foreign)}",
            "Stop them, or measure with a private daemon (mps_settings=default)",
        )


def check_servers(notes: Notes, facts: Mapping[str, Mapping[str, Any]], observed: Mapping[str, Any]) -> None:
    """The daemon answers and the server of the tenants is ACTIVE."""
    if "error" in observed:
        notes.add("mps-daemon-gone", str(observed["error"]), "See mps-control.log; the run has to be repeated")
        return
    servers = our_servers(facts, observed)
    if not servers:
        notes.add("mps-no-server", "the daemon has no MPS server", "No tenant is attached to it: see mps-control.log")
    for server in servers:
        if server.get("status") != "ACTIVE":
            notes.add(
                "mps-server-not-active",
                f"MPS server {server['pid']} was in state {server.get('status', 'unknown')}; expected ACTIVE",
                "A tenant faulted and its neighbours failed with it: mps-server.log names a pid for memory faults",
            )


def our_servers(facts: Mapping[str, Mapping[str, Any]], observed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the servers of this run's tenants; all servers if no tenant's pid is listed."""
    pids = {pid for known in facts.values() for pid in device_pids(known)}
    used = {client["server"] for client in observed.get("clients", ()) if client["pid"] in pids}
    servers: list[Mapping[str, Any]] = list(observed.get("servers", ()))
    return [server for server in servers if server["pid"] in used] or servers


def check_same_servers(notes: Notes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """The servers are the same before and after."""
    first, last = ({server["pid"] for server in observed.get("servers", ())} for observed in (before, after))
    if first and last and first != last:
        notes.add(
            "mps-server-changed",
            f"the MPS server was {_some(first)} before the window and {_some(last)} after it",
            "It died or was replaced while measuring: see mps-server.log; the run has to be repeated",
        )


def check_same_compute_mode(notes: Notes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """The compute mode did not change."""
    first, last = before.get("compute_mode"), after.get("compute_mode")
    if first and last and first != last:
        notes.add(
            "compute-mode-changed",
            f"the compute mode was {first} before the window and {last} after it",
            "Another user changed it: agree with them on a time to measure",
        )


def check_distinct(notes: Notes, facts: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """No two tenants report the same ``name`` (a pid, a stream, a thread)."""
    values = [known[name] for known in facts.values() if name in known]
    code = name.replace("_", "-")
    if len(values) < len(facts):
        notes.add(f"{code}-missing", f"{len(facts) - len(values)} tenants report no {name}", "See their logs")
    if len(set(values)) < len(values):
        notes.add(
            f"{code}-shared",
            f"tenants share a {name}: {len(values)} tenants, {len(set(values))} values; expected one each",
            "They were serialised and did not share the device; this is a bug of mtexp, please report it",
        )


def _some(pids: Iterable[Any]) -> str:
    ordered = sorted(pids, key=str)
    return ", ".join(map(str, ordered[:8])) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "") or "none"


def check_one_process(notes: Notes, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """All tenants report one pid."""
    pids = {known.get("pid") for known in facts.values()}
    if len(pids) > 1:
        notes.add(
            "not-one-process",
            f"tenants ran in {len(pids)} processes ({_some(pids)}); expected one",
            "sharing=streams needs one process; this is a bug of mtexp, please report it",
        )


def check_partition(notes: Notes, tenant: str, facts: Mapping[str, Any], size: int) -> None:
    """The tenant's green context has ``size`` SMs, and its kernels ran on as many."""
    found, ids = facts.get("partition_sm_count"), facts.get("partition_sm_ids", ())
    if found != size or len(ids) != size:
        notes.add(
            "partition-size",
            f"its green context has {'an unknown number of' if found is None else found} SMs and its probe kernel ran "
            f"on {len(ids)}; expected {size} of both",
            "This driver divided the SMs differently from what was asked: give sm_count in steps that it can make",
            tenant,
        )


def check_disjoint_partitions(notes: Notes, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """No SM ran kernels of two tenants' probes."""
    seen: dict[int, str] = {}
    for tenant, known in facts.items():
        for sm in known.get("partition_sm_ids", ()):
            other = seen.setdefault(sm, tenant)
            if other != tenant:
                notes.add(
                    "partitions-overlap",
                    f"kernels of {other} and {tenant} ran on the same SM ({sm}); partitions must be disjoint",
                    "This is a bug of mtexp or of the driver: please report it with the driver's version",
                )
                return
