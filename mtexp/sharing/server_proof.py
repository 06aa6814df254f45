"""Checks of a server's processes, made from outside: on the device, and clients of the MPS daemon or not. Pure.

NVML lists the processes on the device where it numbers them as this process does; else a process that uses CUDA is
known by the driver's file that it has open. What cannot be seen from outside is a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtexp.sharing.proof import Notes, device_pids


def check_on_device(notes: Notes, tenant: str, facts: Mapping[str, Any]) -> None:
    """A process of the server is on the leased device."""
    if not device_pids(facts):
        notes.add(
            "server-not-on-device",
            f"none of the {len(facts.get('server_pids', ()))} processes of its server uses CUDA",
            "It must compute on the GPU: see its log, and whether it looks at CUDA_VISIBLE_DEVICES",
            tenant,
        )
    elif not facts.get("server_nvml"):
        notes.add(
            "server-device-unproven",
            "a process of its server uses CUDA, but NVML lists none of them under a pid that is known here",
            "It was given this device alone (CUDA_VISIBLE_DEVICES); in the host's pid namespace NVML could prove it",
            tenant,
            level="warning",
        )


def check_not_mps(notes: Notes, tenant: str, facts: Mapping[str, Any]) -> None:
    """NVML lists no process of the server as a client of CUDA MPS."""
    clients = [pid for pid, kinds in facts.get("server_nvml", {}).items() if "mps" in kinds]
    if clients:
        notes.add(
            "mps-not-expected",
            f"processes of its server were clients of CUDA MPS (pids {', '.join(clients)}); expected none",
            "It set CUDA_MPS_PIPE_DIRECTORY itself: leave the variable as mtexp gives it",
            tenant,
        )


def note_unseen(notes: Notes, tenant: str, limit_pct: float) -> None:
    """Note what cannot be checked from outside: the SMs that a server sees, and what it computes."""
    if 0 < limit_pct < 100:
        notes.add(
            "server-limit-unproven",
            f"its server was given {limit_pct:g} % of the SMs; whether that is in effect cannot be seen from outside",
            "The server must not unset CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
            tenant,
            level="warning",
        )
    notes.add(
        "server-unseen",
        "the SMs that its server sees, and what it computes, cannot be checked from outside",
        "Its answers were successes; compare some with those that you know",
        tenant,
        level="note",
    )
