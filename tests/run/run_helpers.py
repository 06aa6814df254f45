"""Command lines run as a user runs them, in this process: real tenants, real MLflow, a folder of their own."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mtexp.records.files import find_records
from mtexp.records.record import RunRecord, load
from mtexp.running.runner import Runner
from mtexp.spec import TrackingSpec
from mtexp.terminal import cli, points
from mtexp.testing.faults import Fault, FaultyStarter
from mtexp.tracking.store import open_store

SMALL = (
    "runtime=cpu",
    "workload.batch_size=1",
    "workload.seq_len=8",
    "measure.iterations=70",
    "measure.warmup=2",
    "telemetry.period_s=0.02",
    "deadlines.stop_s=10",
    "measure.design=sustained",
    "sweep_order=written",
)
"""A run of a second or two, in which all tenants measure at once, and sweeps in which the first point is the first to
run; tests of other designs and orders name theirs."""
ON_THE_CPU = (*SMALL, "baseline.min_time_s=0.5")
"""The same with baselines that take no two seconds; those on a GPU (``tests/gpu``) do, its clock rises first."""
ENDLESS = ("measure.iterations=100000", "measure.max_iterations=110000")


@dataclass
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str


@dataclass
class Workplace:
    """A folder in which command lines are run."""

    folder: Path
    patch: pytest.MonkeyPatch
    phases: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def at(cls, folder: Path) -> Iterator[Workplace]:
        """Make ``folder`` the current one; nothing of the environment reaches MLflow or the lease.

        No figure is called impossible: while other tests keep the host busy, a model alone may be slower than beside
        another, and its baseline would be measured again.
        """
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("MTEXP_LEASE_DIR", str(folder / "lease"))
            patch.setattr("mtexp.metrics.impossible.TOLERANCE", math.inf)
            for name in [name for name in os.environ if name.startswith("MLFLOW_TRACKING")]:
                patch.delenv(name)
            yield cls(folder, patch)
        for handler in set(root.handlers) - set(handlers):
            with contextlib.suppress(OSError):  # its disk may be full
                handler.close()
        root.handlers[:], root.level = handlers, level
        for logger in root.manager.loggerDict.values():  # hydra/job_logging=disabled disables every one that exists
            if isinstance(logger, logging.Logger):
                logger.disabled = False

    def run(
        self,
        *arguments: str,
        small: Sequence[str] = ON_THE_CPU,
        faults: Mapping[str, Fault] | None = None,
        on_phase: Callable[[str], None] = lambda text: None,
    ) -> Ran:
        """Run a command line in a runner of its own, as a new process would.

        Args:
            arguments: Of the command line, with :data:`ON_THE_CPU` before them.
            small: What comes before.
            faults: Of tenants, by id.
            on_phase: Called with every progress line.
        """
        runner = Runner(FaultyStarter(faults or {}))
        self.patch.setattr("mtexp.running.runner.shared_runner", lambda: runner)
        points.done_before.cache_clear()
        self.phases.clear()

        def phase(text: str) -> None:
            self.phases.append(text)
            on_phase(text)

        self.patch.setattr("mtexp.terminal.console.phase", phase)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            flags = [text for text in arguments if text.startswith("-")]
            code = cli.main([*flags, *small, *(text for text in arguments if text not in flags)])
        return Ran(code, out.getvalue(), err.getvalue())

    def records(self, below: str = ".") -> dict[str, RunRecord]:
        """Records below a folder, by their place in it."""
        root = self.folder / below
        return {path.relative_to(root).as_posix(): load(path) for path in find_records(root)}

    def jobs(self, below: str) -> list[str]:
        """What became of the points of a sweep, in their order."""
        files = sorted((self.folder / below).rglob(cli.JOB))
        return [json.loads(file.read_text())["status"] for file in files]

    def mlflow_runs(self, query: str = "", uri: str = "") -> list[Any]:
        """Runs in the store that match, oldest first."""
        with open_store(TrackingSpec(uri=uri), write=False) as store:
            return list(store.client.search_runs([store.experiment_id], query, order_by=["attributes.start_time"]))

    def children(self, run: Any) -> dict[str, Any]:
        """The tenant runs of a run, by tenant."""
        query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        return {child.data.params["tenant"]: child for child in self.mlflow_runs(query)}


def kind(name: str) -> str:
    """The query for the runs of a kind."""
    return f"tags.`mtexp.kind` = '{name}'"
