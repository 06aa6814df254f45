"""Sweeps as a user starts them, in a process of their own: what the launchers' tests share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mtexp.records.record import load
from mtexp.spec import TrackingSpec
from mtexp.tracking.store import open_store

ROOT = Path(__file__).resolve().parents[2]
TWO_POINTS = (
    "-m",
    "runtime=cpu",
    "mix=bert_base,bert_base*2",
    "workload.batch_size=1",
    "workload.seq_len=8",
    "measure.iterations=70",
    "measure.warmup=2",
    "measure.design=sustained",
    "telemetry.period_s=0.02",
    "baseline.min_time_s=0.5",
    "sweep=two",
)
"""Two points with one baseline between them, each of a second or two."""
DOUBTED = ("baseline-again", "impossible")
"""Findings of a run whose baseline was measured again, since figures against it were impossible."""


@dataclass(frozen=True)
class Place:
    """A folder with a store and a lease of its own, in which sweeps are started."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``python run.py ARGUMENTS`` in the folder; its output is to be read by ``communicate``."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
        environment = {**kept, "MTEXP_LEASE_DIR": str(self.folder / "lease"), **self.variables}
        command = [sys.executable, str(ROOT / "run.py"), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run ``python run.py ARGUMENTS`` in the folder."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def runs(self, kind: str) -> list[Any]:
        """MLflow runs of a kind, oldest first."""
        with open_store(TrackingSpec(uri=f"sqlite:///{self.folder / 'mlflow.db'}"), write=False) as store:
            query, order = f"tags.`mtexp.kind` = '{kind}'", ["attributes.start_time"]
            return list(store.client.search_runs([store.experiment_id], query, order_by=order))


def check_two_points(place: Place, done: subprocess.CompletedProcess[str]) -> None:
    """Both points of :data:`TWO_POINTS` finished and are in one MLflow; they share one baseline.

    On a busy host a baseline may be INVALID, and a run may find that its own is impossible and measure it again. It
    says so; without that, one that is VALID is never measured a second time.
    """
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [json.loads((place.folder / "multirun" / "two" / num / "job.json").read_text()) for num in ("0", "1")]
    assert [job["status"] for job in jobs] == ["FINISHED", "FINISHED"]
    summary = done.stdout[done.stdout.rindex("mps_settings") :].splitlines()
    assert [line.split()[0] for line in summary[1:3]] == ["bert_base", "bert_base*2"]
    mixes, baselines = place.runs("mix"), place.runs("baseline")
    assert sorted(run.data.params["mix"] for run in mixes) == ["bert_base", "bert_base*2"]
    # a worker knows which point it has, and says so
    assert sorted(run.data.tags["mtexp.swept"] for run in mixes) == ["mix=bert_base", "mix=bert_base*2"]
    every = [load(path.parent) for path in (place.folder / "multirun" / "two").rglob("record.json")]
    finished = [record for record in every if record.run_spec.kind == "mix" and record.status == "FINISHED"]
    assert len(finished) == 2
    valid = [run for run in baselines if run.data.tags["mtexp.verdict"] == "VALID"]
    again = [record for record in finished if any(finding.code in DOUBTED for finding in record.findings)]
    assert len(valid) <= 1 + len(again)
    assert len(baselines) <= 2 + len(again)
    used = {tenant.baseline.record_id for record in finished for tenant in record.tenants if tenant.baseline}
    assert len(used) <= 1 + len(again)


def required(variable: str, reason: str) -> None:
    """Skip, or fail where ``variable`` says that what is missing has to be there."""
    if os.environ.get(variable):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str | None:
    """Path of a system program; an ordinary user's PATH lacks /usr/sbin."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
