"""Torch is imported while a command line is read: only for one that starts tenants, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mtexp.terminal.early import starts_tenants

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "does"),
    [
        (["mix=bert_base"], True),
        (["-m", "+experiment=quick"], True),
        (["-h"], False),
        (["mix=bert_base", "--cfg", "job"], False),
        (["mix=bert_base", "dry_run=true"], False),
        (["mix=bert_base", "+launcher=interpreter"], False),
        (["-m", "mix=bert_base", "hydra/launcher=joblib"], False),
    ],
)
def test_only_a_command_line_that_starts_tenants_here_imports_torch(arguments, does):
    assert starts_tenants(arguments) is does


def test_a_refused_command_line_leaves_no_process(tmp_path):
    command = [sys.executable, ROOT / "run.py", "mix=bert_bas"]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert "Did you mean bert_base?" in run.communicate(timeout=60)[1]
    assert run.returncode == 2
    until = time.monotonic() + 2  # the resource tracker of multiprocessing sees the end of the pipe
    while left := _group(run.pid):
        assert time.monotonic() < until, left
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "why"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_while_it_is_imported_ends_it_with_one_line(tmp_path, number, why):
    (tmp_path / "multiprocessing.py").write_text("import time\nprint(1, flush=True)\ntime.sleep(60)\n")
    run = subprocess.Popen(
        [sys.executable, ROOT / "run.py", "mix=bert_base"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "1\n"
    run.send_signal(number)
    assert run.communicate(timeout=60)[1] == f"Interrupted by {why}.\n"
    assert run.returncode == 128 + number


def _group(number: int) -> list[str]:
    """Processes of a group that have not ended."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                left.append(str(process))
    return left
