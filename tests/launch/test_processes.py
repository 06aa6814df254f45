"""Processes are started in bounded time, import what their parent imports, and are known before a signal counts."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import mtexp
from mtexp import processes
from mtexp.processes import Started, signals_postponed

ROOT = Path(mtexp.__file__).parents[1]
pytestmark = pytest.mark.process


def _server() -> int:
    processes.start_forkserver()
    pid = processes._server()
    assert pid
    return pid


def _process(seconds: float) -> multiprocessing.Process:
    return multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(seconds,))  # type: ignore[return-value]


def test_a_forkserver_that_is_stopped_is_given_up_and_the_next_start_has_a_new_one(bare_server: None) -> None:
    Started(_process(0)).wait(60)
    server = _server()
    begun = time.monotonic()
    os.kill(server, signal.SIGSTOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "end_stopped", lambda: None)  # it is stopped just after it was looked at
        with pytest.raises(EOFError):
            Started(_process(0))
    assert time.monotonic() - begun < 60
    started = Started(_process(0))
    assert started.wait(60)
    assert started.exit_code() == 0
    assert _server() != server


def test_the_end_of_a_process_is_seen_though_the_forkserver_is_stopped(bare_server: None) -> None:
    started = Started(_process(600))
    server = _server()
    os.kill(server, signal.SIGSTOP)
    try:
        assert not started.wait(0)
        started.kill()
        assert started.wait(60)
        assert started.exit_code() == processes.UNKNOWN
        started.close()
    finally:
        processes.end_stopped()
    end = time.monotonic() + 30
    while psutil.pid_exists(server) and psutil.Process(server).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_is_started_comes_when_it_is_known(signum: signal.Signals) -> None:
    class Asked(Exception):
        pass

    def ask(*arguments: object) -> None:
        raise Asked

    before = signal.signal(signum, ask)
    known = []
    try:
        with pytest.raises(Asked), signals_postponed():  # noqa: PT012
            signal.raise_signal(signum)
            known.append(1)
        assert known
    finally:
        signal.signal(signum, before)


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from mtexp.launch import ForkserverStarter
import multiprocessing.util
from looking import look
if __name__ == "__main__":
    starter = ForkserverStarter()
    starter.context.set_forkserver_preload(["mtexp", "calendar"])  # what `look` looks at, no torch
    child = starter.fork("x", look, {folder!r})
    assert child.wait(60), "did not end"
    print(child.exit_code(), multiprocessing.util.get_temp_dir())
"""

LOOKING = """
import mtexp
def look(folder):
    import calendar
    open(folder + "/seen", "w").write(mtexp.__file__ + "\\n" + calendar.__file__)
"""


def test_children_import_the_mtexp_that_runs_and_no_module_of_the_current_folder(tmp_path: Path) -> None:
    """Two checkouts and one environment: run from the second one, in a folder with a ``calendar.py``."""
    checkout, folder = tmp_path / "b", tmp_path / "c"
    shutil.copytree(ROOT / "mtexp", checkout / "mtexp", ignore=shutil.ignore_patterns("__pycache__"))
    folder.mkdir()
    (folder / "calendar.py").write_text("raise SystemExit('the wrong calendar')\n")
    (checkout / "looking.py").write_text(LOOKING)
    (checkout / "program.py").write_text(PROGRAM.format(root=str(checkout), folder=str(folder)))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(checkout / "program.py")]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120)
    package, calendar = (folder / "seen").read_text().splitlines()
    assert package == str(checkout / "mtexp/__init__.py")
    assert Path(calendar).parent == Path(os.__file__).parent


def test_a_long_temporary_folder_does_not_keep_processes_from_starting(tmp_path: Path) -> None:
    """Slurm and CI give each job one: multiprocessing's sockets would have addresses of more than 107 bytes."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    (tmp_path / "looking.py").write_text(LOOKING)
    (tmp_path / "program.py").write_text(PROGRAM.format(root=str(ROOT), folder=str(tmp_path)))
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(long)}, check=True, timeout=120, stdout=subprocess.PIPE, text=True
    )
    code, place = done.stdout.split()
    assert code == "0"
    assert not Path(place).exists()


LAST = """
import psutil
def last():
    print([child.status() for child in psutil.Process().children()])
multiprocessing.util.Finalize(None, last, exitpriority=-1000)
"""


def test_forkserver_and_resource_tracker_have_ended_before_their_process_does(tmp_path: Path) -> None:
    """One that is stopped while its process ends would stay for ever: nobody would look at it any more."""
    (tmp_path / "looking.py").write_text(LOOKING)
    (tmp_path / "program.py").write_text(PROGRAM.format(root=str(ROOT), folder=str(tmp_path)) + LAST)
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, check=True, timeout=120, stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines()[-1] == str([psutil.STATUS_ZOMBIE] * 2)
