"""A private MPS daemon comes up, answers, and is gone afterwards, whatever ends the run (stand-in executables)."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sharing_helpers import make_spec

from mtexp.errors import ConfigError, HostError
from mtexp.sharing import daemon, guardian
from mtexp.sharing.mps import ExternalMps, ManagedMps
from mtexp.spec import MpsLimits

pytestmark = pytest.mark.process


@pytest.fixture(name="managed")
def _managed(stub, device, root, tmp_path):
    def make(spec=None, **settings):
        return stub(**settings), ManagedMps(spec or make_spec(MpsLimits(), MpsLimits()), device, tmp_path, root=root)

    return make


def directory_of(mode: ManagedMps) -> str:
    return str(Path(mode.observe()["pipe_directory"]).parent)


def test_daemon_up_and_gone(managed, root, tmp_path):
    """The daemon answers inside, in a directory of mode 0700; afterwards its logs are there and nothing else."""
    stub, mode = managed(clients=[4711, 4712])
    with mode:
        directory = directory_of(mode)
        assert os.stat(directory).st_mode & 0o777 == 0o700
        seen = mode.observe()
        assert [client["pid"] for client in seen["clients"]] == [4711, 4712]
        assert seen["servers"][0]["status"] == "ACTIVE"
        assert seen["version"] == 13000
        assert mode.pids() == (seen["servers"][0]["pid"],)
        assert len(guardian.mps_processes(directory)) == 2
    assert guardian.mps_processes(directory) == []
    assert list(root.iterdir()) == []
    assert "quit -t 5" in stub.commands()
    assert (tmp_path / "logs" / "mps-server.log").is_file()
    assert "binary version: 13000" in (tmp_path / "logs" / "mps-control.log").read_text()


def test_exception_takes_the_daemon_down(managed):
    """An exception in the run passes through, and the daemon is gone."""
    _, mode = managed(clients=[1])
    seen = []

    def run():
        with mode:
            seen.append(directory_of(mode))
            raise RuntimeError("in the run")

    with pytest.raises(RuntimeError, match="in the run"):
        run()
    assert guardian.mps_processes(seen[0]) == []


def test_stubborn_daemon_is_killed(managed, monkeypatch):
    """A daemon and a server that ignore quit and SIGTERM are killed, within a bound."""
    monkeypatch.setattr(daemon, "QUIT_S", 0.2)
    _, mode = managed(clients=[1], behaviour="stubborn")
    with mode:
        directory = directory_of(mode)
        assert len(guardian.mps_processes(directory)) == 2
    assert guardian.mps_processes(directory) == []


def test_daemon_killed_in_the_middle(managed):
    """A daemon that dies while measuring is seen, proven against, and its orphaned server does not stay."""
    _, mode = managed(clients=[1])
    with mode:
        directory = directory_of(mode)
        (server,) = mode.pids()
        for pid in set(guardian.mps_processes(directory)) - {server}:
            os.kill(pid, signal.SIGKILL)
        seen = mode.observe()
        assert "no MPS daemon answers" in seen["error"]
    assert guardian.mps_processes(directory) == []


def test_guardian_killed(managed):
    """If even the guardian is killed, the run cleans up itself at its end."""
    _, mode = managed(clients=[1])
    with mode:
        directory = directory_of(mode)
        mode._private._guardian.kill()  # only a kill from outside does this
    assert guardian.mps_processes(directory) == []


def test_what_a_killed_run_and_guardian_left_is_swept(stub, root, tmp_path, caplog):
    """A directory nobody holds is removed with the daemon in it; one in use, or just being made, is not touched.

    The logs of the daemon stay, and the warning says where.
    """
    installed = stub()
    private = daemon.PrivateDaemon(installed.control, "GPU-1", tmp_path, root=root)
    private.start()
    fresh = root / daemon.private_name()
    fresh.mkdir()
    assert daemon.sweep_stale(root) == []
    private._guardian.kill()
    private._guardian.communicate()
    log = private.directory / "log" / "control.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("the last words of the daemon\n")
    assert daemon.sweep_stale(root) == [private.directory]
    assert guardian.mps_processes(str(private.directory)) == []
    fresh.rmdir()
    logs = private.directory.with_suffix(".logs")
    assert "the last words of the daemon" in (logs / "mps-control.log").read_text()
    (said,) = [record.getMessage() for record in caplog.records]
    assert str(logs) in said
    assert "null" not in said
    assert daemon.sweep_stale(root) == []
    assert logs.is_dir()
    shutil.rmtree(logs)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [("exits", "exit code 1.*Another daemon uses this directory"), ("silent", "did not open its socket")],
)
def test_daemon_that_does_not_start(managed, monkeypatch, behaviour, message):
    """A daemon that ends at once or opens no socket gives one message with the end of its log and a remedy."""
    monkeypatch.setattr(daemon, "START_S", 0.5)
    _, mode = managed(behaviour=behaviour)
    with pytest.raises(HostError, match=f"(?s){message}"), mode:
        pass


def test_daemon_that_does_not_answer(managed, monkeypatch):
    """A daemon that opens its socket and answers nothing is refused within the deadline."""
    monkeypatch.setattr(daemon, "START_S", 0.3)
    monkeypatch.setattr(daemon.MpsControl.ask, "__kwdefaults__", {"timeout_s": 0.3})
    monkeypatch.setattr(daemon, "QUIT_S", 0.2)
    _, mode = managed(behaviour="deaf")
    with pytest.raises(HostError, match="did not answer 'get_default_active_thread_percentage'"), mode:
        pass


def test_path_too_long_is_refused(stub, device, tmp_path):
    """A pipe directory over 80 characters is refused before the daemon fails without a word."""
    stub()
    root = tmp_path / ("x" * 80)
    with (
        pytest.raises(HostError, match=r"characters and may have 80.*silently"),
        ManagedMps(make_spec(MpsLimits()), device, tmp_path, root=root),
    ):
        pass


def test_path_too_long_for_the_daemon(stub, device, tmp_path, monkeypatch):
    """Where the limit is lifted, the daemon's own failure is reported, not passed over."""
    stub()
    monkeypatch.setattr(daemon.commands, "MAX_PIPE_CHARS", 200)
    root = tmp_path / ("x" * 80)
    root.mkdir()
    with (
        pytest.raises(HostError, match="ended at once"),
        ManagedMps(make_spec(MpsLimits()), device, tmp_path, root=root),
    ):
        pass
    assert list(root.iterdir()) == []


def test_no_binary(device, tmp_path, monkeypatch):
    """Without the control binary the message says what to install or to choose."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(HostError, match=r"not on PATH.*mps_settings=disabled"),
        ManagedMps(make_spec(MpsLimits()), device, tmp_path),
    ):
        pass


def test_client_limit(managed, root):
    """49 tenants on a driver for 48 clients are refused before a daemon is started; 48 are not."""
    _, mode = managed(make_spec(*[MpsLimits()] * 49))
    with pytest.raises(ConfigError, match="at most 48 tenants with CUDA MPS 13000"), mode:
        pass
    _, mode = managed(make_spec(*[MpsLimits()] * 48))
    with mode:
        pass
    _, mode = managed(make_spec(*[MpsLimits()] * 49), version=13010)
    with mode:
        pass


def test_version_from_the_log(managed):
    """A binary that does not answer -v is asked through its log."""
    _, mode = managed(says_version=False, version=13000)
    with mode:
        assert mode.observe()["version"] == 13000


@pytest.mark.parametrize("says_version", [True, False])
def test_static_partitioning_refused(managed, says_version):
    """A binary without -S is a clear refusal, whether it tells its version or has to be tried; never a percentage."""
    spec = make_spec(MpsLimits(sm_partition=4), static_partitioning=True)
    _, mode = managed(spec, says_version=says_version)
    with pytest.raises((ConfigError, HostError), match=r"CUDA 13\.1.*mps_settings=half"), mode:
        pass


def test_static_partitioning(managed):
    """Where the binary offers it, each tenant gets a partition of its own and names it."""
    spec = make_spec(MpsLimits(sm_partition=4), MpsLimits(sm_partition=8), static_partitioning=True)
    stub, mode = managed(spec, version=13010)
    with mode:
        assert mode.environment(["t0"])["CUDA_MPS_SM_PARTITION"].endswith("/1")
        assert mode.environment(["t1"])["CUDA_MPS_SM_PARTITION"].endswith("/2")
    assert [c for c in stub.commands() if c.startswith("sm_partition")] == [
        f"sm_partition add {mode.device.uuid} 4",
        f"sm_partition add {mode.device.uuid} 8",
    ]


def test_release_terminates_the_client(managed):
    """Before SIGKILL, a busy client is taken off the GPU; one that the daemon does not know is left alone."""
    stub, mode = managed(clients=[4711])
    with mode:
        mode.observe()
        (server,) = mode.pids()
        mode.release(4711)
        mode.release(99)
    assert [c for c in stub.commands() if "terminate" in c] == [f"terminate_client {server} 4711"]


def test_release_does_not_wait_twice(managed, monkeypatch, caplog):
    """A daemon that hangs costs one deadline, not one for each tenant, and raises nothing."""
    monkeypatch.setattr(daemon, "QUIT_S", 0.2)
    stub, mode = managed(clients=[1, 2], behaviour="locked")
    with mode:
        (stub.directory / "lock").touch()
        monkeypatch.setattr(daemon.MpsControl.ask, "__kwdefaults__", {"timeout_s": 0.2})
        for pid in (1, 2):
            mode.release(pid)
    assert caplog.text.count("killed without terminate_client") == 1


def test_external_is_never_stopped(stub, device, root, tmp_path):
    """An administrator's daemon is attached to, asked, and still there afterwards."""
    installed = stub(clients=[7])
    private = daemon.PrivateDaemon(installed.control, device.uuid, tmp_path, root=root)
    private.start()
    spec = make_spec(MpsLimits(), mps_mode="external", pipe_directory=private.control.pipe)
    with ExternalMps(spec, device, tmp_path) as mode:
        assert mode.environment(["t0"])["CUDA_MPS_PIPE_DIRECTORY"] == private.control.pipe
        assert [client["pid"] for client in mode.observe()["clients"]] == [7]
    assert private.control.ask("get_default_active_thread_percentage") == "100.0\n"
    assert "quit" not in " ".join(installed.commands())
    private.stop()


@pytest.mark.parametrize("exists", [True, False])
def test_external_stale(stub, device, tmp_path, exists):
    """No daemon behind the directory, or no directory, is refused with what to do."""
    stub()
    pipe = tmp_path / "nvidia-mps"
    if exists:
        pipe.mkdir()
    spec = make_spec(MpsLimits(), mps_mode="external", pipe_directory=str(pipe))
    message = "Stale MPS directory" if exists else "no MPS pipe directory"
    with pytest.raises(HostError, match=f"{message}.*mps_settings=default"), ExternalMps(spec, device, tmp_path):
        pass


PARENT = """
import signal, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from sharing_helpers import make_spec
from mtexp.host import Device
from mtexp.sharing.mps import ManagedMps
from mtexp.spec import MpsLimits
device = Device("gpu", 0, "GPU-1", "NVIDIA H200", 1, 132)
with ManagedMps(make_spec(MpsLimits()), device, Path({work!r}), root=Path({root!r})) as mode:
    print(Path(mode.observe()["pipe_directory"]).parent, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_parent_killed(stub, root, tmp_path, number):
    """Ctrl-C, SIGTERM, SIGHUP or SIGKILL of the run leaves no process, socket or directory, and keeps the logs."""
    stub(clients=[4711])
    script = PARENT.format(
        paths=[str(Path(__file__).parent), str(Path(daemon.__file__).parents[2])], work=str(tmp_path), root=str(root)
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert select.select([parent.stdout], [], [], 60)[0], "the run did not come up"
        directory = parent.stdout.readline().decode().strip()
        assert len(guardian.mps_processes(directory)) == 2
        parent.send_signal(number)
        parent.wait(30)
    deadline = time.monotonic() + 20
    while Path(directory).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(directory).exists()
    assert guardian.mps_processes(directory) == []
    assert (tmp_path / "logs" / "mps-control.log").exists()
