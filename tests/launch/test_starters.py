"""What starts tenants: the forkserver outlives a Ctrl-C that reaches the whole terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

_PROGRAM = """
import multiprocessing, multiprocessing.forkserver as server
from mtexp.launch import ForkserverStarter
starter = ForkserverStarter()
starter.context.set_forkserver_preload([])
starter.warm()
pid = server._forkserver._forkserver_pid
print(*(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("SigBlk")))
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("SigBlk")))
"""


@pytest.mark.process
def test_the_forkserver_leaves_ctrl_c_to_the_run() -> None:
    """It is started with SIGINT blocked, also while it still imports; the run itself hears it, and so SIGTERM."""
    program = [sys.executable, "-c", _PROGRAM]
    output = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True, cwd=os.getcwd()).stdout
    server, run = (int(mask, 16) for mask in output.split())
    interrupt, terminate = 1 << (signal.SIGINT - 1), 1 << (signal.SIGTERM - 1)
    assert server & interrupt
    assert not server & terminate
    assert not run & (interrupt | terminate)
