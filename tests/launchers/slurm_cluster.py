"""A Slurm of one node, started here: munged, slurmctld and slurmd on loopback, everything in one folder."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.launchers.launcher_helpers import program, required

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "sinfo", "squeue")
DEADLINE_S = 30.0

_CONF = """\
ClusterName=mtexp
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which ``sbatch`` and ``srun`` speak to the cluster; afterwards no job or daemon is left.

    The node claims two CPUs, so two jobs run at a time.
    """
    if missing := [name for name in PROGRAMS if program(name) is None]:
        reason = f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)"
        required("MTEXP_REQUIRE_SLURM", reason)
    if os.getuid() != 0:
        required("MTEXP_REQUIRE_SLURM", "a Slurm of one's own needs root")
    conf = _write_files(folder)
    variables = {"SLURM_CONF": str(conf)}
    with ExitStack() as daemons:
        munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket"]
        munged += [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("key-file", "pid-file", "log-file")]
        daemons.enter_context(_daemon([*munged, f"--seed-file={folder}/munge.seed"], folder))
        _wait_for((folder / "munge.socket").exists, folder)
        for name in ("slurmctld", "slurmd"):
            daemons.enter_context(_daemon([name, "-D", "-f", str(conf)], folder))
        daemons.callback(_end_jobs, variables)
        _wait_for(lambda: "idle" in _ask(["sinfo", "-h", "-o", "%T"], variables), folder)
        yield variables


def _write_files(folder: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        port, node_port = one.getsockname()[1], two.getsockname()[1]
    host = socket.gethostname().partition(".")[0]
    conf.write_text(_CONF.format(folder=folder, host=host, port=port, node_port=node_port))
    return conf


@contextmanager
def _daemon(command: list[str], folder: Path) -> Iterator[None]:
    path = program(command[0])
    assert path is not None
    with (folder / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen([path, *command[1:]], stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(ready: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + DEADLINE_S
    while not ready():
        if time.monotonic() > end:
            said = "\n".join(f"{file.name}: {file.read_text()[-1000:]}" for file in sorted(folder.glob("*.out")))
            pytest.fail(f"Slurm did not get ready in {DEADLINE_S:.0f} s:\n{said}")
        time.sleep(0.1)


def _ask(command: list[str], variables: dict[str, str]) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout


def _end_jobs(variables: dict[str, str]) -> None:
    """Cancel what still runs and wait until the node has cleaned up after it."""
    _ask(["scancel", "--partition=all"], variables)
    end = time.monotonic() + DEADLINE_S
    while _ask(["squeue", "-h"], variables) and time.monotonic() < end:
        time.sleep(0.2)
