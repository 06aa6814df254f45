"""``docs/python.md`` works as it stands, and so do callers that have no script to import again."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.process]

ROOT = Path(__file__).parents[2]
SHORT = """
import functools, mtexp
for name in ("run", "sweep"):
    short = {"workload.batch_size": 1, "workload.seq_len": 8, "measure.max_time_s": 0.5}
    setattr(mtexp, name, functools.partial(getattr(mtexp, name), **short))
"""
"""Before the page: its requests and runs take a small part of the time."""
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
UNDER_A_LOOP = """
import asyncio, sys
import mtexp

async def main():
    return await asyncio.to_thread(
        mtexp.run, "bert_base", baseline="skip", tracking="none", runtime="cpu",
        workload={"batch_size": 1, "seq_len": 8}, measure={"iterations": 20, "warmup": 2},
    )

result = asyncio.run(main())
assert result.status == "FINISHED", result.record.failure
assert "telemetry-missing" not in {finding.code for finding in result.record.findings}, result.findings
assert "mlflow" not in sys.modules
"""


def _python(*arguments: str, code: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": str(ROOT), "MTEXP_LEASE_DIR": str(folder / "lease")}
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, input=code, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_page_runs_from_stdin(tmp_path, made_store):
    store = tmp_path / "mlflow.db"
    store.write_bytes(made_store)
    blocks = BLOCK.findall((ROOT / "docs" / "python.md").read_text())
    out = _python("-", code="\n".join([SHORT, *blocks]), folder=tmp_path)
    assert "VALID" in out
    assert "measuring" in out
    assert "Did you mean" in out  # bert_bas
    assert "Traceback" not in out
    with closing(sqlite3.connect(store)) as runs:
        assert runs.execute("SELECT count(*) FROM runs").fetchone() > (0,)


def test_a_script_without_a_guard_runs_once_also_in_a_thread_beside_an_event_loop_and_without_mlflow(tmp_path):
    (tmp_path / "script.py").write_text(f"print('imported')\n{UNDER_A_LOOP}")
    assert _python("script.py", code="", folder=tmp_path).count("imported") == 1
