"""Runs a profiler as a child process with a deadline, and explains its errors. May touch: subprocess, psutil."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from mtexp.errors import ProfilerError, ProfilerUnusable
from mtexp.processes import importing_alike

_STOP_S = 10.0
_TAIL_CHARS = 100_000

_COMPLAINTS = (
    (
        r"error while loading shared libraries: (\S+?):",
        "it lacks the shared library {0}. Install it (Debian and Ubuntu: apt-get install libdw1 libelf1)",
    ),
    (
        r"ERR_NVGPUCTRPERM",
        "this user may not read the GPU's performance counters (ERR_NVGPUCTRPERM). Run as root, in a container with "
        "--cap-add=SYS_ADMIN, or load the nvidia module with NVreg_RestrictProfilingToAdminUsers=0",
    ),
    (
        r"[Dd]river resource was unavailable",
        "another profiler holds the GPU's performance counters. Stop it (DCGM: dcgmi profile --pause) and try again",
    ),
    (
        r"Failed to initialize the profiler|LibraryNotLoaded",
        "the profiler cannot reach the driver's counters on this host (seen where a sandbox stands in for the kernel). "
        "Use another host, or profiler=torch",
    ),
    (
        r"MULTIPLE_SUBSCRIBERS",
        "the process is already traced (one CUPTI subscriber a process). Do not nest profilers",
    ),
    (
        r"(?i)importer (?:binary|error)|unable to retrieve the importer version",
        "this installation has no QdstrmImporter, so a capture cannot become a report. Install the full Nsight Systems "
        "(package nsight-systems-cli has it), or set NSYS to the nsys of one",
    ),
    (
        r"(?i)permission denied|requires root|root privileges|perf_event_paranoid",
        "it lacks a permission. Run as root, or leave out what needs it (profiler.gpu_metrics=false)",
    ),
)


def explain(output: str) -> str:
    """Return the known error in a profiler's output, with the remedy; empty if there is none."""
    for pattern, text in _COMPLAINTS:
        if match := re.search(pattern, output):
            return text.format(*match.groups())
    return ""


def run_bounded(argv: Sequence[str], *, timeout_s: float, log: Path) -> tuple[int, str]:
    """Run ``argv`` with both outputs in ``log``; stop it and all it started at the deadline, or on any exception.

    Returns:
        Exit code, and the last 100,000 characters of the log.

    Raises:
        ProfilerUnusable: It cannot be started.
        ProfilerError: It did not end in time.
    """
    env = os.environ | importing_alike()
    with log.open("wb") as file:
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env)
        except OSError as error:
            raise ProfilerUnusable(f"{argv[0]} cannot be started: {error.strerror or error}.") from error
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ProfilerError(
                f"{Path(argv[0]).name} did not end within {timeout_s:g} s and was stopped; log: {log}. Ask for less "
                "(profiler.iterations for nsys, profiler.kernels for ncu)."
            ) from error
        finally:
            if child.poll() is None:
                _stop_tree(child.pid)
                child.wait()
    return code, log.read_text(errors="replace")[-_TAIL_CHARS:]


def _stop_tree(pid: int) -> None:
    """End ``pid`` and its descendants: SIGTERM first, so that MPS clients disconnect, then SIGKILL."""
    try:
        root = psutil.Process(pid)
        processes = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_STOP_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
