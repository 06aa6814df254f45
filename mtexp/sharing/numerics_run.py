"""Running the checks of ``python -m mtexp.sharing.numerics``: one short process a percentage, under a private daemon.

Lives here: :class:`Checker` and its processes. May touch: processes, the MPS daemon, the device lease; never torch,
which only the processes import.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from mtexp.errors import HostError
from mtexp.host import Device
from mtexp.leases import lease
from mtexp.processes import Started, start_forkserver
from mtexp.sharing import commands, control
from mtexp.sharing.daemon import SHORT, PrivateDaemon, private_name, sweep_stale
from mtexp.sharing.numerics_report import QUICK, USUAL, Options, Report, Row, every_count
from mtexp.spec import MpsLimits, to_json
from mtexp.tenant import workarounds

_ANSWER_S = 180.0
"""Longest silence of a process: importing torch and building a 7B model in float32 are the longest steps."""

Target = Callable[[Any, Mapping[str, Any]], None]


class Failed(Exception):
    """A process did not get to its end."""


class _Process:
    """One process that does one task, as a context manager that leaves none behind."""

    def __init__(self, context: BaseContext, target: Target, task: Mapping[str, Any]) -> None:
        self._here, there = context.Pipe()
        self._process = Started(context.Process(target=target, args=(there, dict(task))))  # type: ignore[attr-defined]
        there.close()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()
        if not self._process.wait(5.0):
            self._process.kill()
            self._process.wait(5.0)

    def hear(self) -> dict[str, Any]:
        """Return its next message.

        Raises:
            Failed: It says that it failed, has ended, or says nothing for too long.
        """
        if not self._here.poll(_ANSWER_S):
            self._process.kill()
            raise Failed(f"no answer for {_ANSWER_S:g} s")
        try:
            message: dict[str, Any] = self._here.recv()
        except (EOFError, ConnectionError):
            self._process.wait(5.0)
            raise Failed(f"its process ended with exit code {self._process.exit_code()}") from None
        if message["event"] == "error":
            raise Failed(message["message"])
        return message

    def go(self, *, on: bool = True) -> None:
        """Let it continue after it has reported its device, or end it."""
        with contextlib.suppress(OSError):
            self._here.send("go" if on else "end")


def serve(connection: Any, task: Mapping[str, Any]) -> None:
    """The entry of a process."""
    from mtexp.tenant import numerics  # torch: only ever imported there

    numerics.serve(connection, task)


class Checker:
    """The checks of one command, in order; ``show`` is called after each percentage.

    Args:
        options: What to check.
        show: Called with the name of each row and the row, once it is complete.
        save: Called with the report whenever it has grown.
        target: The entry of a process; replaced in tests.
    """

    def __init__(
        self,
        options: Options,
        show: Callable[[str, Row], None],
        save: Callable[[Report], None] = lambda report: None,
        target: Target = serve,
    ) -> None:
        self._options, self._show, self._save, self._target = options, show, save, target
        self.report = Report(started_at=datetime.now(UTC).isoformat(timespec="seconds"), options=options)
        self._forked = multiprocessing.get_context("forkserver")
        self._forked.set_forkserver_preload(["mtexp.tenant.preload", "mtexp.tenant.numerics"])

    def run(self) -> Report:
        """Check everything; with ``probe_workarounds``, also try them.

        Raises:
            HostError: There is no GPU or no CUDA MPS, or another run measures on the GPU.
        """
        binary = control.find_binary()
        sweep_stale()
        start_forkserver()
        with tempfile.TemporaryDirectory(prefix="mtexp-numerics-") as folder, contextlib.ExitStack() as held:
            self._without_mps(folder, held)
            with _Daemon(binary, self.report.device["gpu_uuid"], Path(folder)) as daemon:
                for percentage in self._percentages():
                    self._under_mps(percentage, folder, daemon)
                self._probe(daemon)
        self.report.complete = True
        self._save(self.report)
        return self.report

    def _percentages(self) -> Iterator[float]:
        if self._options.percentages:
            yield from self._options.percentages
        elif self._options.quick:
            yield from QUICK
        else:
            yield from USUAL
            yield from every_count(self.report.device["sm_count"])

    def _task(self, folder: str, **more: Any) -> dict[str, Any]:
        o = self._options
        common = {"precisions": list(o.precisions), "batch_size": o.batch_size, "seq_len": o.seq_len}
        return {**common, "runtime": o.runtime, "references": folder, "products": self.report.products, **more}

    def _without_mps(self, folder: str, held: contextlib.ExitStack) -> None:
        """The control: no MPS. It also finds the products, and computes the models' float32 outputs."""
        o = self._options
        task = self._task(
            folder,
            environment=commands.no_mps_environment(pipe=str(SHORT / private_name()), visible=o.device),
            models=list(o.models),
            shapes_of=[] if o.products else list(o.shapes_of),
            linear=[list(sizes) for sizes in o.products],
            make_references=True,
        )
        row, began = Row(percentage=None), time.monotonic()
        with _Process(self._forked, self._target, task) as process:
            try:
                facts = process.hear()
            except Failed as error:
                raise HostError(f"no GPU that torch can use: {error}. nvidia-smi -L lists the GPUs") from error
            if facts.get("mps_enabled"):
                raise HostError("the control runs under CUDA MPS: something sets CUDA_MPS_PIPE_DIRECTORY. Unset it")
            self.report.device = {key: value for key, value in facts.items() if key not in ("event", "mps_enabled")}
            device = Device("gpu", 0, facts["gpu_uuid"], facts["device_name"], 0)
            held.enter_context(lease([device], wait_s=o.wait_s, label="mtexp.sharing.numerics"))
            row.sm_count = facts["sm_count"]
            process.go()
            self._fill(row, process)
        self._add(row, began)
        if row.failure and not self.report.products:
            raise HostError(f"the control without CUDA MPS failed: {row.failure}")

    def _under_mps(self, percentage: float, folder: str, daemon: _Daemon) -> None:
        whole = percentage in QUICK or bool(self._options.percentages)
        task = self._task(
            folder,
            environment=daemon.client(percentage),
            models=list(self._options.models) if whole else [],
        )
        row, began = Row(percentage=percentage), time.monotonic()
        known = {r.sm_count: r.percentage for r in self.report.rows if r.percentage is not None and not r.failure}
        try:
            with _Process(self._forked, self._target, task) as process:
                facts = process.hear()
                row.sm_count = facts["sm_count"]
                if facts.get("mps_enabled") != 1:
                    raise Failed("it ran without CUDA MPS: it did not reach the daemon")
                row.same_as = known.get(row.sm_count)
                process.go(on=row.same_as is None)
                if row.same_as is None:
                    self._fill(row, process)
        except Failed as error:
            row.failure = str(error)
        if row.failure:
            daemon.restart()  # a fault of one client takes the server along
        self._add(row, began)

    def _fill(self, row: Row, process: _Process) -> None:
        try:
            while (message := process.hear())["event"] != "done":
                event = message.pop("event")
                if event == "products":
                    self.report.products = message["products"]
                else:
                    (row.products if event == "product" else row.models).append(message)
        except Failed as error:
            row.failure = str(error)

    def _add(self, row: Row, began: float) -> None:
        row.seconds = round(time.monotonic() - began, 2)
        self.report.rows.append(row)
        self._save(self.report)
        self._show(row.name, row)

    # workarounds

    def _probe(self, daemon: _Daemon) -> None:
        if not self._options.probe_workarounds:
            return
        percentage = self._options.probe_at or self._worst()
        if percentage is None:
            return
        for name, way in workarounds.SETTINGS.items():
            environment = daemon.client(percentage) | dict(way.environment)
            task = self._task("", environment=environment, workaround=name, precisions=self._half())
            row, began = Row(percentage=percentage), time.monotonic()
            context = _fresh(way.environment) if way.environment else contextlib.nullcontext(self._forked)
            try:
                with context as found, _Process(found, self._target, task) as process:
                    row.sm_count = process.hear()["sm_count"]
                    process.go()
                    self._fill(row, process)
            except Failed as error:
                row.failure = str(error)
            if row.failure:
                daemon.restart()
            row.seconds = round(time.monotonic() - began, 2)
            self.report.probes.append({"workaround": name, **to_json(row)})
            self._save(self.report)
            self._show(name, row)

    def _half(self) -> list[str]:
        return [p for p in self._options.precisions if p in ("fp16", "bf16")] or list(self._options.precisions)

    def _worst(self) -> float | None:
        wrong = {r.percentage: sum(map(r.wrong, self._half())) for r in self.report.rows if r.percentage is not None}
        worst = max(wrong, key=lambda percentage: wrong[percentage], default=None)
        return worst if worst is not None and wrong[worst] else None


class _Daemon:
    """A private daemon that can be replaced by a new one."""

    def __init__(self, binary: str, gpu_uuid: str, logs: Path) -> None:
        self._binary, self._uuid, self._logs = binary, gpu_uuid, logs
        self._daemon = PrivateDaemon(binary, gpu_uuid, logs)

    def __enter__(self) -> _Daemon:
        self._daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.stop()

    def restart(self) -> None:
        self._daemon.stop()
        self._daemon = PrivateDaemon(self._binary, self._uuid, self._logs)
        self._daemon.start()

    def client(self, percentage: float) -> dict[str, str]:
        """The environment of a client."""
        return commands.client_environment(
            pipe=self._daemon.control.pipe,
            logs=str(self._daemon.log_directory),
            gpu_uuid=self._uuid,
            limits=MpsLimits(active_thread_pct=percentage),
        )


@contextlib.contextmanager
def _fresh(environment: Mapping[str, str]) -> Iterator[BaseContext]:
    """A context whose processes are fresh interpreters that have ``environment`` from their first moment."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield multiprocessing.get_context("spawn")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
