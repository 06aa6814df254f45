"""Sends commands to a CUDA MPS control daemon. Lives here: commands with a deadline, its state, what the binary can do.

May touch: the programs ``nvidia-cuda-mps-control`` and ``nvidia-smi``, and /proc.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mtexp.errors import HostError
from mtexp.sharing import commands, parse

ANSWER_S = 5.0
"""Deadline of a control command in seconds."""

STATIC_PARTITIONING_VERSION = 13010
"""First version of the control binary with ``-S`` (CUDA 13.1); it also raised the client limit."""


@dataclass(frozen=True, slots=True)
class MpsCapabilities:
    """Features of the installed control binary."""

    version: int | None
    """13000 = CUDA 13.0; None if the binary does not report it."""
    client_limit: int
    """Clients of one device and server, with the default number of connections."""
    static_partitioning: bool | None
    """None: unknown until a daemon is started with it."""


def find_binary() -> str:
    """Return the path of the control binary.

    Raises:
        HostError: It is not installed.
    """
    binary = shutil.which(commands.CONTROL)
    if binary is None:
        raise HostError(
            f"{commands.CONTROL} is not on PATH: CUDA MPS comes with the NVIDIA driver (Debian: nvidia-compute-utils). "
            "Install it, or run with mps_settings=disabled"
        )
    return binary


def capabilities(binary: str) -> MpsCapabilities:
    """Query the version and options of the control binary, without starting a daemon.

    Binaries before CUDA 13.1 may know neither ``-v`` nor ``-h``: then the version is None, and the limit the lower one.
    """
    environment = commands.daemon_environment(os.environ, pipe="/nonexistent", logs="/nonexistent", gpu_uuid="")
    version = parse.version(_output([binary, "-v"], environment))
    offered = version is None and "static-partitioning" in _output([binary, "-h"], environment)
    return capabilities_of(version, static_partitioning=True if offered else None)


def capabilities_of(version: int | None, *, static_partitioning: bool | None = None) -> MpsCapabilities:
    """Return the features of a control binary of ``version``: 48 clients from Volta to CUDA 13.0, 60 from CUDA 13.1."""
    new = (version or 0) >= STATIC_PARTITIONING_VERSION
    return MpsCapabilities(version, 60 if new else 48, new if version is not None else static_partitioning)


def _output(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environment),
            timeout=ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def ask_nvidia_smi(argv: Sequence[str]) -> str:
    """Return the output of nvidia-smi; empty if it is missing, fails or times out."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S * 2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


class MpsControl:
    """The control side of one daemon.

    Args:
        binary: Path of ``nvidia-cuda-mps-control``.
        environment: Environment that names the daemon's directories.
    """

    def __init__(self, binary: str, environment: Mapping[str, str]) -> None:
        self._binary, self._environment = binary, dict(environment)

    @property
    def pipe(self) -> str:
        """The daemon's pipe directory."""
        return self._environment["CUDA_MPS_PIPE_DIRECTORY"]

    def ask(self, command: str, *, timeout_s: float = ANSWER_S) -> str:
        """Send one command and return the answer.

        Raises:
            HostError: No daemon answers, or not within ``timeout_s``.
        """
        try:
            done = subprocess.run(
                [self._binary],
                input=command + "\n",
                capture_output=True,
                text=True,
                errors="replace",
                env=self._environment,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise HostError(f"the MPS daemon of {self.pipe} did not answer {command!r} in {timeout_s:g} s") from error
        except OSError as error:
            raise HostError(f"{self._binary} cannot be started: {error}") from error
        if done.returncode != 0:
            said = (done.stderr + done.stdout).strip() or f"exit code {done.returncode}"
            raise HostError(f"no MPS daemon answers in {self.pipe}: {said}")
        return done.stdout

    def state(self) -> dict[str, Any]:
        """Return the daemon's servers (pid, status, uid, percentage), its clients, and its default percentage.

        Raises:
            HostError: No daemon answers.
        """
        servers = [self._server(pid) for pid in parse.pids(self.ask("get_server_list"))]
        default = parse.percentage(self.ask("get_default_active_thread_percentage"))
        return {
            "servers": servers,
            "clients": [asdict(client) for client in parse.clients(self.ask("ps"))],
            **({} if default is None else {"default_active_thread_pct": default}),
        }

    def _try(self, command: str) -> str:
        """Return the answer; empty if the server has ended or the driver does not know the command."""
        try:
            return self.ask(command)
        except HostError:
            return ""

    def _server(self, pid: int) -> dict[str, Any]:
        known = {
            "pid": pid,
            "status": parse.status(self._try(f"get_server_status {pid}")),
            "active_thread_pct": parse.percentage(self._try(f"get_active_thread_percentage {pid}")),
            "uid": _uid(pid),
        }
        return {key: value for key, value in known.items() if value is not None}


def _uid(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:  # it has ended, or is in another pid namespace
        return None
