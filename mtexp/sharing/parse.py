"""Parsers for the output of CUDA MPS and nvidia-smi. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CLIENT = re.compile(r"^\s*(\d+)\s+(\S+)\s+(\d+)\s+(\S+)\s+(\S+)(?:\s+(.*\S))?\s*$")
_VERSION = re.compile(r"version\W{0,3}(\d{5})\b", re.IGNORECASE)
_POLICY = re.compile(r"^\|\s*\d+\s+Time-?\s?slice\s+(\S.*?)\s*\|", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MpsClient:
    """One line of the control command ``ps``: a context of a client."""

    pid: int
    """Pid in the daemon's pid namespace."""
    id: str
    server: int
    device: str
    """The first groups of the GPU's UUID."""
    namespace: str
    """Inode of the client's pid namespace."""
    command: str


def clients(text: str) -> tuple[MpsClient, ...]:
    """Return the clients that ``ps`` lists: columns PID, ID, SERVER, DEVICE, NAMESPACE, COMMAND below one header.

    A process with several contexts has several lines. Other lines (the header) are ignored.
    """
    found = (_CLIENT.match(line) for line in text.splitlines())
    return tuple(MpsClient(int(m[1]), m[2], int(m[3]), m[4], m[5], m[6] or "") for m in found if m is not None)


def pids(text: str) -> tuple[int, ...]:
    """Return the pids of an answer with one pid per line; other lines are ignored."""
    return tuple(int(line) for line in text.split("\n") if line.strip().isdigit())


def status(text: str) -> str | None:
    """Return ``ACTIVE``, ``INITIALIZING`` or ``FAULT`` from ``get_server_status``; None for anything else."""
    return next((word for word in ("ACTIVE", "INITIALIZING", "FAULT") if word in text.upper().split()), None)


def percentage(text: str) -> float | None:
    """Return the answer of ``get_default_active_thread_percentage``; None if it is not a percentage."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%?\s*", text)
    return float(match[1]) if match else None


def version(text: str) -> int | None:
    """Return the control binary's version (13000 = CUDA 13.0) from ``-v`` or from a log; None if there is none."""
    match = _VERSION.search(text)
    return int(match[1]) if match else None


def compute_mode(text: str) -> str | None:
    """Return ``default``, ``exclusive_process``, ``exclusive_thread`` or ``prohibited``; None for anything else."""
    word = text.strip().lower()
    return word if word in ("default", "exclusive_process", "exclusive_thread", "prohibited") else None


def time_slice(text: str) -> str | None:
    """Return the time slice (``default``, ``short``, ``medium``, ``long``) of ``compute-policy -l``; None if absent."""
    match = _POLICY.search(text)
    return match[1].lower() if match else None
