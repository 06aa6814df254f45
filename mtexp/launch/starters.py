"""Two ways to start a tenant process, one kind of handle. May touch: multiprocessing, subprocess.

The forkserver has torch and transformers imported, so a tenant starts in 0.02 s instead of some 10 s; the fresh
interpreter is what a profiler can follow (processes forked from a forkserver are invisible to nsys).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from mtexp.processes import PRELOADED, Started, importing_alike, start_forkserver
from mtexp.spec import to_json
from mtexp.tenant.job import ProcessJob


class Child(Protocol):
    """A started process."""

    @property
    def pid(self) -> int:
        """Process id."""

    @property
    def sentinel(self) -> Any:
        """Becomes readable when the process has ended."""

    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; True when it has ended (and has been reaped)."""

    def close(self) -> None:
        """Release the resources of the handle, after the process has ended."""


class Starter(Protocol):
    """Starts tenant processes."""

    def start(self, job: ProcessJob) -> Child:
        """Start ``job`` and return at once."""


class ForkserverStarter:
    """Forks tenants from a server with all imports done; one server for all runs of this process."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def warm(self) -> None:
        """Start the server; its imports run in parallel with the caller.

        The signals of a terminal reach every process of it; the server and what it forks are this process's to end.
        """
        start_forkserver()

    def start(self, job: ProcessJob) -> Child:
        """Fork a tenant."""
        return self.fork(job.name, _serve, to_json(job))

    def fork(self, name: str, target: Callable[..., None], *arguments: Any) -> Child:
        """Fork a process that calls ``target``, a function of a module, with plain data."""
        return Started(self.context.Process(target=target, args=arguments, name=name))


def _serve(data: dict[str, Any]) -> None:
    from mtexp.tenant.process import serve  # torch is imported only in the child

    serve(data)


class InterpreterStarter:
    """Each tenant in a fresh interpreter: ``python -m mtexp.tenant JOB.json``."""

    def start(self, job: ProcessJob) -> Child:
        """Start a tenant; its job file is in the folder of its log."""
        path = Path(job.log).with_suffix(".job.json")
        path.write_text(json.dumps(to_json(job)))
        with Path(job.log).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mtexp.tenant", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | importing_alike(),
                start_new_session=True,  # the parent handles Ctrl-C
            )
        return _SpawnedChild(process)


class _SpawnedChild:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self.sentinel = os.pidfd_open(process.pid)

    def exit_code(self) -> int | None:
        return self._process.poll()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        return bool(wait([self.sentinel], timeout_s)) and self._process.wait() is not None

    def close(self) -> None:
        os.close(self.sentinel)
