"""The sampler: one process that polls the device while tenants measure.

Lives here: :func:`open_sampler`, the :class:`Sampler` handle, the sampling loop. May touch: multiprocessing, and, in
the child, NVML or psutil through a probe. The child never imports torch, neither flushes nor logs while it samples, and
ends by itself when the parent is gone. If the sampler fails, the run gets a finding and continues.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mtexp.errors import MtexpError
from mtexp.metrics.finding import Finding
from mtexp.processes import Started, signals_postponed
from mtexp.spec import TelemetrySpec
from mtexp.telemetry.gpu import GpuProbe
from mtexp.telemetry.probes import FAST, GPM, RARE, CpuProbe, Probe, Probes
from mtexp.telemetry.table import Table

GPM_PERIOD_MIN_S = 0.2
RARE_PERIOD_S = 1.0
"""Period in seconds of expensive calls: the energy counter (3.4 ms a call on an H200; the power curve says how it
grew between two readings), the memory of each process (read once more after the window), ECC counts, error events."""

READY_S = 30.0
STOP_S = 30.0
KILL_S = 2.0
"""Deadlines: until it samples, until the file is written, and for each further rung of the ladder."""


def open_sampler(
    spec: TelemetrySpec,
    runtime: str,
    gpu_uuid: str,
    pids: Mapping[str, int],
    path: Path,
    core: int | None = None,
    *,
    mps: bool = True,
    context: Any = None,
) -> Sampler:
    """Return the sampler of one run, not yet started: enter it, then :meth:`Sampler.stop` it after the window.

    Args:
        spec: Rates; ``enabled=False`` gives a sampler that does nothing.
        runtime: ``gpu`` (NVML, GPM and the host's CPU) or ``cpu``.
        gpu_uuid: Of the GPU or MIG instance; not used on the CPU.
        pids: Tenant id to process id; tenants of one process (streams) share a pid.
        path: The Parquet file to write.
        core: CPU core of its own; None leaves it to the kernel.
        mps: The tenants share through CUDA MPS, where the utilisation of one process means nothing.
        context: Multiprocessing context; forkserver by default. Never ``fork``: it would inherit locks and sockets.
    """
    if not spec.enabled:
        return Sampler(None, path, {})
    probe: Probe = CpuProbe(pids)
    if runtime == "gpu":
        probe = Probes(GpuProbe(gpu_uuid, pids, process_util=not mps), CpuProbe(pids, GPM))
    periods_s = {FAST: spec.period_s, GPM: max(spec.gpm_period_s, GPM_PERIOD_MIN_S), RARE: RARE_PERIOD_S}
    return Sampler(probe, path, periods_s, core=core, context=context)


class Sampler:
    """Handle of the sampler process. Entering it starts the process; leaving it ends the process.

    Args:
        probe: What is sampled; None for a sampler that does nothing.
        path: The Parquet file to write.
        periods_s: Seconds between two readings of each group of the probe.
        core: CPU core of its own.
        context: Multiprocessing context.
    """

    def __init__(
        self,
        probe: Probe | None,
        path: Path,
        periods_s: Mapping[str, float],
        *,
        core: int | None = None,
        context: Any = None,
    ) -> None:
        self._probe, self._path, self._core = probe, path, core
        self._periods_ns = {group: round(period_s * 1e9) for group, period_s in periods_s.items()}
        self._context = context or multiprocessing.get_context("forkserver")
        self._process: Started | None = None
        self._connection: Connection | None = None
        self._failure = ""

    def __enter__(self) -> Self:
        if self._probe is None:
            return self
        self._connection, theirs = self._context.Pipe()
        cores = sorted(os.sched_getaffinity(0)) if self._core is None else [self._core]
        arguments = (theirs, self._probe, self._path, self._periods_ns, cores)
        process = self._context.Process(target=_serve, args=arguments, name="mtexp-sampler", daemon=True)
        try:
            with signals_postponed():
                self._process = Started(process)
        except EOFError:
            self._failure = "cannot be started: the forkserver did not answer, or has ended"
            return self
        except OSError as error:  # no process, no memory; or it was killed before it had read what it is to do
            self._failure = f"cannot be started: {error}"
            return self
        finally:
            theirs.close()
        self._await("ready", READY_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the sampler while it runs."""
        return self._process.pid if self._process is not None else None

    def stop(self) -> tuple[Finding, ...]:
        """Let the process write its file and end it: ask, wait, terminate, kill. A second call does nothing.

        Returns:
            One warning with the reason if telemetry is missing or incomplete; otherwise nothing.
        """
        if self._process is not None:
            if not self._failure:
                self._ask_to_stop()
            self._end_process()
        if not self._failure:
            return ()
        remedy = "The timed results remain valid. To run without telemetry, set telemetry=disabled"
        return (Finding("warning", "telemetry-missing", f"the telemetry sampler {self._failure}", remedy),)

    def _ask_to_stop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):  # it has died; the wait below returns how
                self._connection.send("stop")
        self._await("written", STOP_S)

    def _await(self, expected: str, deadline_s: float) -> None:
        """Wait for a message of the child; store anything else as the failure."""
        connection, process = self._connection, self._process
        if connection is None or process is None or not wait([connection, process.sentinel], deadline_s):
            self._failure = f"gave no answer ({expected}) within {deadline_s:g} s"
            return
        try:
            said, text = connection.recv() if connection.poll() else ("died", "")
        except (EOFError, OSError):
            said, text = "died", ""
        if said == "died":
            process.wait(KILL_S)
            self._failure = f"died (exit code {process.exit_code()})"
        elif said != expected:
            self._failure = f"failed: {text}"

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for force in (None, process.terminate, process.kill):
            if force is not None:
                force()
            if process.wait(KILL_S):
                break
        process.close()
        if self._connection is not None:
            self._connection.close()


# --- the child --------------------------------------------------------------------------------------------------------


def _serve(connection: Connection, probe: Probe, path: Path, periods_ns: Mapping[str, int], cores: list[int]) -> None:
    """Sample until a stop request or the end of the parent, then write the file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone
        try:
            os.sched_setaffinity(0, cores)  # the forkserver may have been started by a thread that was pinned
            probe.open()
        except (MtexpError, OSError) as error:
            connection.send(("failed", str(error)))
            return
        try:
            table = Table(probe.columns())
            connection.send(("ready", ""))
            missed = sample(probe, table, periods_ns, connection.poll)
            table.write(path, _notes(probe, periods_ns, missed))
            connection.send(("written", ""))
        except OSError as error:
            connection.send(("failed", f"{path}: {error}"))
        finally:
            probe.close()


def sample(
    probe: Probe,
    table: Table,
    periods_ns: Mapping[str, int],
    stopped: Callable[[float], bool],
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> int:
    """Fill ``table`` until stopped: each group at its own rate, on a grid that does not drift, and all at the end.

    Args:
        probe: Opened.
        table: With the columns of ``probe``.
        periods_ns: Nanoseconds between two readings of each group; a grid point that was missed is left out.
        stopped: Waits for the given number of seconds; True when sampling must stop.
        clock_ns: The clock of the samples.

    Returns:
        How many grid points of the fastest group were missed.
    """
    groups = [group for group in periods_ns if probe.columns().get(group)]
    due_ns = dict.fromkeys(groups, clock_ns())
    missed = 0
    while True:
        now_ns = clock_ns()
        due = [group for group in groups if now_ns >= due_ns[group]]
        table.append(now_ns, {group: probe.read(group) for group in due})
        for group in due:
            late = (now_ns - due_ns[group]) // periods_ns[group]
            due_ns[group] += (late + 1) * periods_ns[group]
            missed += late if group == groups[0] else 0
        if stopped(max(0, min(due_ns.values()) - clock_ns()) / 1e9):
            break
    table.append(clock_ns(), {group: probe.read(group) for group in groups})
    return missed


def _notes(probe: Probe, periods_ns: Mapping[str, int], missed: int) -> dict[str, Any]:
    return {
        "format": 1,
        "periods_ms": {group: period_ns / 1e6 for group, period_ns in periods_ns.items()},
        "groups": {group: list(names) for group, names in probe.columns().items()},
        "missed": missed,
        "absent": {},
        "events": [],
        **probe.notes(),
    }
