"""What a CUDA failure of a tenant means and what to do. Lives here: one table. May touch: nothing.

The codes are those of CUDA 13's driver and runtime enumerations, the texts what their error strings say; causes and
remedies are from NVIDIA's MPS documentation (error handling, troubleshooting) and from what was seen on an H200.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Observed = Mapping[str, Any]

_SERVER_DIED = (
    "The MPS server died while the run was on it (806), and every tenant with it. "
    "The last lines of mps-server.log say why; repeat the run."
)
_TERMINATED = (
    "The process was taken off the GPU by terminate_client (810), which comes before a kill: "
    "look for what failed first."
)
_NO_DEVICE = (
    "CUDA sees no device (100, 101): the tenant was given one that is not there for it. "
    "Daemon and tenants name the GPU by UUID: check nvidia-smi -L, and an external daemon's CUDA_VISIBLE_DEVICES."
)
_NO_PARTITION = (
    "The MPS daemon partitions SMs statically and this client has no partition (915). "
    "Give every tenant sm_partition (mps_settings.sm_partition=<chunks>), or start the daemon without -S."
)
_FORKED = (
    "A package that transformers imports where it is installed has started CUDA in the process that tenants are "
    "forked from. Use launcher=interpreter, or remove that package from this environment."
)


def explain(text: str, observed: Observed | None = None) -> str | None:
    """Return what the failure ``text`` of a tenant means and what to do about it.

    Args:
        text: Cause and last log lines of the tenant.
        observed: State of the sharing mode (``SharingMode.observe``), with ``mode`` and ``tenants``.

    Returns:
        One or two sentences; None where the text is not about CUDA MPS or the device.
    """
    state = observed or {}
    for code, pattern, say in _TABLE:
        number = rf"\b(?:error|code|status)\W{{0,3}}{code}\b" if code else r"(?!)"
        if re.search(rf"{number}|{pattern}", text, re.IGNORECASE):
            said = say if isinstance(say, str) else say(state)
            if said is not None:
                return said
    return None


def _connection(state: Observed) -> str:
    pipe = state.get("pipe_directory", "the pipe directory")
    return (
        f"CUDA found an MPS directory but no daemon answers (805): stale MPS directory {pipe}. "
        f"Remove it or unset CUDA_MPS_PIPE_DIRECTORY; a run with mps_settings=default brings its own daemon."
    )


def _not_ready(state: Observed) -> str:
    servers = state.get("servers", ())
    status = ", ".join(f"server {server['pid']} is {server.get('status', 'of unknown state')}" for server in servers)
    return (
        f"The MPS server takes no clients now (807){': ' + status if status else ''}. "
        "FAULT: a tenant's fatal error ended its neighbours too, see mps-server.log and repeat the run. "
        "INITIALIZING: try again in a minute. Otherwise another user's server holds the GPU."
    )


def _too_many(state: Observed) -> str:
    limit = state.get("client_limit", 48)
    tenants = state.get("tenants")
    return (
        f"The MPS server has no room for another client (808, 809){f': {tenants} tenants' if tenants else ''}, "
        f"limit {limit} with the default connections. Lower the number of tenants or CUDA_DEVICE_MAX_CONNECTIONS."
    )


def _busy(state: Observed) -> str:
    mode = state.get("compute_mode", "unknown")
    text = f"The GPU takes no further process (46): compute mode {mode}, sharing by {state.get('mode', 'unknown')}. "
    if mode.startswith("exclusive") and state.get("mode") != "mps":
        return text + "Exclusive mode lets one process on it: an administrator runs nvidia-smi -c DEFAULT."
    return text + "Look for another process on it (nvidia-smi), and for a percentage or memory limit that is too low."


def _memory(state: Observed) -> str | None:
    limits = state.get("pinned_memory_limits")
    if not limits:
        return None
    return (
        f"Out of memory under the MPS limit {', '.join(limits)}, which counts CUDA's own memory too "
        "(about half a GiB a process). Raise pinned_memory_limit or shrink the batch."
    )


def _hang(state: Observed) -> str | None:
    if state.get("mode") != "mps":
        return None
    uid = state.get("uid")
    others = [s for s in state.get("servers", ()) if "uid" in s and uid is not None and s["uid"] != uid]
    if others:
        who = ", ".join(f"{s['pid']} of uid {s['uid']}" for s in others)
        return (
            f"CUDA hangs without an error while another user's MPS server ({who}) has clients; "
            f"mtexp runs as uid {uid}. Wait for that user's clients to end, or have the daemon started with "
            "-multiuser-server."
        )
    if "error" in state:
        return f"CUDA may hang while its MPS daemon is gone: {state['error']}. See mps-control.log and repeat the run."
    if not any(s.get("status") == "ACTIVE" for s in state.get("servers", ())):
        return (
            "The MPS server is not ACTIVE, and CUDA waits for it silently: see mps-control.log and mps-server.log. "
            "Another daemon on the same GPU, or exclusive compute mode with a process on it, keeps a server away."
        )
    return None


_TABLE: tuple[tuple[int, str, str | Callable[[Observed], str | None]], ...] = (
    (805, r"MPS_?Connection_?Failed|failed to connect to the MPS", _connection),
    (806, r"MPS_?Rpc_?Failure|remote procedural call between the MPS", _SERVER_DIED),
    (807, r"MPS_?Server_?Not_?Ready|MPS server is not ready", _not_ready),
    (808, r"MPS_?Max_?Clients_?Reached|required to create MPS client", _too_many),
    (809, r"MPS_?Max_?Connections_?Reached|required to support device connections", _too_many),
    (810, r"MPS_?Client_?Terminated|MPS client has been terminated", _TERMINATED),
    (46, r"devices?(?:\(s\))? (?:is/)?are busy or unavailable|DevicesUnavailable", _busy),
    (915, r"INVALID_RESOURCE_CONFIGURATION|invalid resource configuration", _NO_PARTITION),
    (100, r"no CUDA-capable device is detected|No CUDA GPUs are available", _NO_DEVICE),
    (101, r"invalid device ordinal", _NO_DEVICE),
    (0, r"re-initialize CUDA in forked subprocess", _FORKED),
    (0, r"out of memory", _memory),
    (0, r"within [\d.]+ s\b|timed out|in time|deadlines\.", _hang),
)
