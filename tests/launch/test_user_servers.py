"""Servers of a run: started, proven ready, and gone with all of their processes, also after a SIGKILL."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mtexp.errors import TenantFailed
from mtexp.launch import Servers
from mtexp.launch.server_guardian import descendants
from mtexp.served import ServerSpec
from mtexp.spec import DeadlineSpec, ModelSpec, TenantSpec
from tests.launch.conftest import nothing_left

pytestmark = pytest.mark.process

__all__ = ["nothing_left"]

TOY = ("{python}", "-m", "mtexp.testing.toy_server", "--port", "{port}")
DEADLINES = DeadlineSpec(build_s=20, stop_s=6)


def toy(
    *more: str, ready: str = "/health", ready_s: float = 0.0, url: str = "http://127.0.0.1:{port}/work"
) -> TenantSpec:
    server = ServerSpec(command=(*TOY, *more), url=url, ready=ready, ready_s=ready_s, body='{"a": "{text}"}')
    model = ModelSpec(name="toy", role="server", architecture="python", server=server)
    return TenantSpec(id="toy", model=model)


@pytest.fixture
def folder(tmp_path: Path, nothing_left: None) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_has_the_modes_environment_and_its_cores_and_leaves_nothing(folder: Path) -> None:
    """Ready by its URL; a child in a session of its own that ignores SIGTERM goes too."""
    core = min(os.sched_getaffinity(0))
    with Servers(folder, DEADLINES) as servers:
        servers.start(toy("--child"), {"MTEXP_TEST": "yes", "PYTHONHASHSEED": ""}, [core])
        facts = servers.facts()["toy"]
        pids = servers.pids()
        assert len(pids) == 2
        assert facts["server_pid"] in pids
        assert facts["server_position"] == 0
        environment = Path(f"/proc/{pids[0]}/environ").read_bytes().split(b"\0")
        assert b"MTEXP_TEST=yes" in environment
        assert os.sched_getaffinity(facts["server_pid"]) == {core}
        assert facts["server_cuda_pids"] == []
        servers.check()
    assert gone(pids)


@pytest.mark.parametrize(
    ("tenant", "why"),
    [
        (toy("--ready-after", "60", ready_s=0.5), r"not ready within 0.5 s \(server.ready_s\): .*answered 503"),
        (toy(ready="never said", ready_s=0.5), "no line of its output matches never said"),
        (toy("--bogus"), "its server ended .*unrecognized arguments"),
        (toy("--fork"), "forked away. Start it in the foreground"),
        (replace(toy(), model=replace(toy().model, code_path="/no/such/folder")), "cannot be started"),
    ],
    ids=["never ready", "never says", "ends", "forks", "cannot start"],
)
def test_a_server_that_does_not_become_ready_is_one_message(folder: Path, tenant: TenantSpec, why: str) -> None:
    """It names what was seen, and the end of its log; nothing of it is left."""
    before = descendants(os.getpid())
    with Servers(folder, DEADLINES) as servers, pytest.raises(TenantFailed) as failed:
        servers.start(tenant, {}, ())
    text = " ".join(f"{failed.value.cause} ({failed.value.exit_code}) {failed.value.log_tail}".split())
    assert re.search(why, text), text
    assert gone([pid for pid in descendants(os.getpid()) if pid not in before])


def test_a_line_of_the_output_can_say_that_it_is_ready(folder: Path) -> None:
    """A regular expression; without one, a port that takes connections is enough."""
    for ready in (r"listens on \d+$", ""):
        with Servers(folder, DEADLINES) as servers:
            servers.start(toy(ready=ready), {}, ())


def test_a_port_that_is_taken_is_refused_before_anything_starts(folder: Path) -> None:
    """Another program would be measured."""
    with socket.create_server(("127.0.0.1", 0)) as other, Servers(folder, DEADLINES) as servers:
        port = other.getsockname()[1]
        with pytest.raises(TenantFailed, match=f"port {port} .*in use"):
            servers.start(toy(url=f"http://127.0.0.1:{port}/work"), {}, ())
        assert not servers.pids()


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.launch.test_user_servers import DEADLINES, toy
from mtexp.launch import Servers
with Servers(Path({folder!r}), DEADLINES) as servers:
    servers.start(toy("--child"), {{}}, ())
    print(servers._servers["toy"]._guardian.pid, *servers.pids(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, list[int]]]:
    """A process that has started a server, the pid of its guardian, those of the server."""
    text = SCRIPT.format(root=str(Path(__file__).parents[2]), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        guard, *pids = map(int, parent.stdout.readline().split())
        yield parent, guard, pids
        parent.kill()


def test_a_run_that_is_killed_leaves_no_server(run: tuple[subprocess.Popen[str], int, list[int]]) -> None:
    """Its guardian ends them all, also one that ignores SIGTERM."""
    parent, guard, pids = run
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    assert gone([guard, *pids])


def test_a_guardian_that_is_killed_is_a_failure_and_leaves_no_server(folder: Path) -> None:
    """The run itself ends what carries its mark."""
    with Servers(folder, DEADLINES) as servers:
        servers.start(toy("--child"), {}, ())
        pids = servers.pids()
        guard = servers._servers["toy"]._guardian
        assert guard is not None
        guard.kill()
        guard.wait()
        with pytest.raises(TenantFailed, match="guardian"):
            servers.check()
    assert gone(pids)
