"""Every command and environment is plain data, pinned by golden files; every answer is parsed into plain data."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharing_helpers import UUID

from mtexp.sharing import commands, parse
from mtexp.spec import MpsLimits

GOLDEN = Path(__file__).parent / "golden"
PIPE = "/tmp/mtexp-1000-0a1b2c3d/pipe"
LOGS = "/tmp/mtexp-1000-0a1b2c3d/log"
SHELL = {"PATH": "/usr/bin", "HOME": "/home/u", "CUDA_VISIBLE_DEVICES": "1", "MLFLOW_TRACKING_PASSWORD": "secret"}


def client(**limits: object) -> dict[str, str]:
    return commands.client_environment(pipe=PIPE, logs=LOGS, gpu_uuid=UUID, limits=MpsLimits(**limits))  # type: ignore[arg-type]


BUILT = {
    "daemon-command": lambda: commands.daemon_command("/usr/bin/nvidia-cuda-mps-control", static_partitioning=False),
    "daemon-command-static": lambda: commands.daemon_command(
        "/usr/bin/nvidia-cuda-mps-control", static_partitioning=True
    ),
    "daemon-environment": lambda: commands.daemon_environment(SHELL, pipe=PIPE, logs=LOGS, gpu_uuid=UUID),
    "client-default": lambda: client(),
    "client-half": lambda: client(active_thread_pct=50.0),
    "client-equal-share-of-3": lambda: client(active_thread_pct=100 / 3),
    "client-all-limits": lambda: client(active_thread_pct=12.5, pinned_memory_limit="4G", priority=1),
    "client-partition": lambda: commands.client_environment(
        pipe=PIPE, gpu_uuid=UUID, limits=MpsLimits(sm_partition=4), partition=f"{UUID}/1"
    ),
    "no-mps": lambda: commands.no_mps_environment(pipe="/tmp/mtexp-1000-0a1b2c3d", visible=UUID),
    "control-commands": lambda: [commands.terminate_client(6472, 9741), commands.add_partition(UUID, 4)],
    "nvidia-smi": lambda: [commands.compute_mode_query(UUID), commands.compute_policy_query(UUID)],
}


@pytest.mark.parametrize("name", BUILT)
def test_golden(name):
    """What other programs are given is exactly what the golden file says."""
    assert BUILT[name]() == json.loads((GOLDEN / f"{name}.json").read_text())


def test_no_golden_file_is_orphaned():
    """Every golden file is compared with something."""
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == sorted(BUILT)


def test_nothing_of_the_shell_leaks():
    """A variable that does not apply is unset in the client, and secrets never reach the daemon."""
    assert set(client()) == set(commands.CLIENT_VARIABLES)
    assert client()["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == ""
    assert "MLFLOW_TRACKING_PASSWORD" not in commands.daemon_environment(SHELL, pipe=PIPE, logs=LOGS, gpu_uuid=UUID)


PS = """\
PID       ID    SERVER    DEVICE                   NAMESPACE      COMMAND
9741      0     6472      GPU-cb1213a3-d6a4-be7f   4026531836     ./nbody -benchmark
9743      0     6472      GPU-cb1213a3-d6a4-be7f   4026531836     ./matrixMul
9743      1     6472      GPU-cb1213a3-d6a4-be7f   4026531836     ./matrixMul
"""


def test_ps():
    """``ps`` becomes one client a line, header aside; a process with two contexts has two."""
    found = parse.clients(PS)
    assert [c.pid for c in found] == [9741, 9743, 9743]
    assert found[0] == parse.MpsClient(9741, "0", 6472, "GPU-cb1213a3-d6a4-be7f", "4026531836", "./nbody -benchmark")


@given(st.text())
def test_ps_takes_anything(text):
    """No answer of a daemon makes the parser fail."""
    assert all(client.pid >= 0 for client in parse.clients(text))


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (parse.pids, "6472\n6500\n", (6472, 6500)),
        (parse.pids, "\n", ()),
        (parse.pids, "Server list is empty\n", ()),
        (parse.status, "ACTIVE\n", "ACTIVE"),
        (parse.status, "Server status: FAULT", "FAULT"),
        (parse.status, "what?", None),
        (parse.percentage, "50.0\n", 50.0),
        (parse.percentage, "Cannot find MPS control daemon process", None),
        (parse.version, "[2026-05-31 23:46:49.893 Control 11107] CUDA MPS Control binary version: 13030", 13030),
        (parse.version, "Unrecognized option: -v", None),
        (parse.compute_mode, "Exclusive_Process\n", "exclusive_process"),
        (parse.compute_mode, "[N/A]", None),
        (
            parse.time_slice,
            "| GPU     Name            Policy      |\n|   0     Time-slice      Default     |",
            "default",
        ),
        (parse.time_slice, "|   0     timeslice      Long  |", "long"),
        (parse.time_slice, "Not supported", None),
    ],
)
def test_answers(function, text, expected):
    """Answers become values; what is not an answer becomes None or nothing."""
    assert function(text) == expected
