"""Commands and environments for CUDA MPS and its clients, as plain data. Pure.

Golden files pin every text that another program reads: in ``tests/sharing/golden``.
"""

from __future__ import annotations

from collections.abc import Mapping

from mtexp.spec import MpsLimits

CONTROL = "nvidia-cuda-mps-control"
"""Name of the control binary, found on PATH."""

DEFAULT_PIPE_DIRECTORY = "/tmp/nvidia-mps"
"""The driver's default pipe directory."""

MAX_PIPE_CHARS = 80
"""Longest allowed pipe directory. A socket address holds 107 characters; at 95 the daemon of driver 580 exits."""

INHERITED = ("PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LANG")
"""Variables that the daemon inherits; all others are removed."""

CLIENT_VARIABLES = (
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_CLIENT_PRIORITY",
    "CUDA_MPS_SM_PARTITION",
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_VISIBLE_DEVICES",
)
"""Variables set here for every tenant. Those that do not apply are unset, so the user's shell has no effect."""


def daemon_command(binary: str, *, static_partitioning: bool) -> list[str]:
    """Return the argv of a control daemon in the foreground, so that the guardian can supervise it."""
    return [binary, "-f", *(["-S"] if static_partitioning else [])]


def daemon_environment(base: Mapping[str, str], *, pipe: str, logs: str, gpu_uuid: str) -> dict[str, str]:
    """Return the environment of the daemon, and of every control command sent to it.

    Args:
        base: Current environment; only :data:`INHERITED` is copied.
        pipe: Directory of its sockets.
        logs: Directory of its logs.
        gpu_uuid: The GPU it serves. A UUID, because the daemon numbers its GPUs from 0.
    """
    inherited = {name: base[name] for name in INHERITED if name in base}
    return inherited | {
        "CUDA_MPS_PIPE_DIRECTORY": pipe,
        "CUDA_MPS_LOG_DIRECTORY": logs,
        "CUDA_VISIBLE_DEVICES": gpu_uuid,
    }


def client_environment(
    *, pipe: str, gpu_uuid: str, limits: MpsLimits, logs: str = "", partition: str = ""
) -> dict[str, str]:
    """Return the environment of one MPS client; an empty value means: unset it.

    A percentage can only lower what the server allows; it is an upper limit, not a reservation. The memory limit is for
    ordinal 0, the only visible device. Both are fixed when CUDA starts in the process.
    """
    environment = dict.fromkeys(CLIENT_VARIABLES, "")
    environment["CUDA_MPS_PIPE_DIRECTORY"] = pipe
    environment["CUDA_MPS_LOG_DIRECTORY"] = logs
    environment["CUDA_VISIBLE_DEVICES"] = gpu_uuid
    if limits.active_thread_pct:
        environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = f"{limits.active_thread_pct:.10g}"
    if limits.pinned_memory_limit:
        environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={limits.pinned_memory_limit}"
    if limits.priority:
        environment["CUDA_MPS_CLIENT_PRIORITY"] = str(limits.priority)
    if partition:
        environment["CUDA_MPS_SM_PARTITION"] = partition
    return environment


def no_mps_environment(*, pipe: str, visible: str) -> dict[str, str]:
    """Return the environment of a process that must not become an MPS client; an empty value means: unset it.

    Args:
        pipe: A path without a daemon, so that CUDA starts without MPS.
        visible: UUID of the GPU or of the MIG instance.
    """
    return dict.fromkeys(CLIENT_VARIABLES, "") | {"CUDA_MPS_PIPE_DIRECTORY": pipe, "CUDA_VISIBLE_DEVICES": visible}


def terminate_client(server_pid: int, client_pid: int) -> str:
    """Return the control command that destroys a client's contexts, even busy ones, without harming other clients."""
    return f"terminate_client {server_pid} {client_pid}"


def add_partition(gpu_uuid: str, chunks: int) -> str:
    """Return the control command that reserves ``chunks`` of the GPU's SMs (8 SMs each from Hopper on)."""
    return f"sm_partition add {gpu_uuid} {chunks}"


def compute_mode_query(gpu_uuid: str) -> list[str]:
    """Return the argv that asks for the compute mode of one GPU."""
    return ["nvidia-smi", "-i", gpu_uuid, "--query-gpu=compute_mode", "--format=csv,noheader"]


def compute_policy_query(gpu_uuid: str) -> list[str]:
    """Return the argv that lists the compute policies (the time slice) of one GPU."""
    return ["nvidia-smi", "compute-policy", "-i", gpu_uuid, "-l"]
