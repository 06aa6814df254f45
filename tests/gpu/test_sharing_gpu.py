"""CUDA MPS for real: the daemon, the caps, the proofs, and what is left after a kill. One GPU, alone on it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtexp.errors import HostError, MtexpError
from mtexp.sharing import daemon, guardian, open_sharing
from mtexp.sharing.mps import ManagedMps
from mtexp.spec import ModelSpec, MpsLimits, RunSpec, SharingSpec, TenantSpec

pytestmark = [pytest.mark.gpu, pytest.mark.process]

MODEL = ModelSpec(name="bert_base", role="encoder", architecture="bert")
REPOSITORY = str(Path(daemon.__file__).parents[2])

TENANT = """
import ctypes, json, os, sys, torch
a = torch.randn(1024, 1024, device="cuda")
streams = [torch.cuda.Stream() for _ in range(int(sys.argv[1]))]
torch.cuda.synchronize()
def facts(stream):
    value, p = ctypes.c_int(-1), torch.cuda.get_device_properties(0)
    ctypes.CDLL("libcuda.so.1").cuDeviceGetAttribute(ctypes.byref(value), 133, 0)
    uuid = str(p.uuid)
    return dict(pid=os.getpid(), mps_enabled=value.value, sm_count=p.multi_processor_count, stream_id=stream,
                gpu_uuid=uuid if uuid.startswith(("GPU-", "MIG-")) else "GPU-" + uuid)
print(json.dumps([facts(s.cuda_stream) for s in streams] or [facts(0)]), flush=True)
for line in sys.stdin:
    if line.strip() == "work":
        while True:
            a = (a @ a).clamp(-1, 1)
"""


def spec_of(*limits: MpsLimits, mps: str = "managed", mode: str = "processes", **sharing: object) -> RunSpec:
    tenants = tuple(TenantSpec(id=f"t{n}", model=MODEL, mps=limit) for n, limit in enumerate(limits))
    shared = SharingSpec(mode=mode, mps=mps, mps_mode=mps, **sharing)  # type: ignore[arg-type]
    return RunSpec(mix="bert_base", tenants=tenants, sharing=shared, runtime="gpu")


class Tenant:
    """A child with a CUDA context, in the environment that the sharing mode gives."""

    def __init__(self, environment: dict[str, str], streams: int = 0) -> None:
        merged = os.environ | environment
        merged = {name: value for name, value in merged.items() if value or name not in environment}
        argv = [sys.executable, "-c", TENANT, str(streams)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=merged)

    def facts(self) -> list[dict]:
        assert select.select([self.process.stdout], [], [], 120)[0], "the tenant did not come up in 120 s"
        line = self.process.stdout.readline()
        assert line, f"the tenant ended with {self.process.wait()}"
        return json.loads(line)

    def work(self) -> None:
        self.process.stdin.write(b"work\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def tenants_of(mode, streams: int = 0) -> Iterator[list[Tenant]]:
    started = [Tenant(mode.environment(group), streams) for group in mode.groups()]
    try:
        yield started
    finally:
        for tenant in started:
            tenant.process.kill()
        for tenant in started:
            tenant.process.communicate()


def facts_of(mode, started: list[Tenant]) -> dict[str, dict]:
    """Facts by tenant id, all processes together."""
    found = [facts for tenant in started for facts in tenant.facts()]
    return {tenant.id: facts for tenant, facts in zip(mode.spec.tenants, found, strict=True)}


def left_over() -> list[str]:
    """Private directories and MPS processes of this user."""
    names = [str(path) for path in Path("/tmp").glob(f"mtexp-{os.getuid()}-*")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            if comm.startswith(guardian.COMM):
                names.append(f"{pid} {comm}")
    return names


@pytest.fixture(autouse=True)
def _nothing_left(gpu):
    """Every test starts and ends with nothing of ours on the host."""
    assert left_over() == [], "something of an earlier run is on the host"
    yield
    assert left_over() == []


def test_daemon_starts_and_stops(gpu, tmp_path):
    """A private daemon comes up, answers, and is gone; its log is kept."""
    begin = time.monotonic()
    with open_sharing(spec_of(MpsLimits()), gpu, work_dir=tmp_path) as mode:
        up_s = time.monotonic() - begin
        seen = mode.observe()
        assert "error" not in seen
        assert seen["default_active_thread_pct"] == 100.0
        begin = time.monotonic()
    sys.stdout.write(f"up {up_s:.3f} s, down {time.monotonic() - begin:.3f} s, {seen}\n")
    assert (mode.work_dir / "logs" / "mps-control.log").is_file()


def test_percentages_are_seen_and_proven(gpu, tmp_path):
    """Tenants at 100, 50, 25 and 13 % together: every one proven, with the SMs it saw in the record."""
    limits = [MpsLimits(active_thread_pct=pct) for pct in (0, 50, 25, 13)]
    with open_sharing(spec_of(*limits), gpu, work_dir=tmp_path) as mode, tenants_of(mode) as started:
        facts = facts_of(mode, started)
        before = mode.observe()
        record, findings = mode.prove(facts, facts, before, mode.observe())
    sys.stdout.write(json.dumps(record, indent=1) + "\n")
    assert findings == ()
    assert record["proven"]
    if gpu.sm_count == 132:
        assert [facts[f"t{n}"]["sm_count"] for n in (0, 1, 3)] == [132, 66, 16]
    assert (mode.work_dir / "logs" / "mps-control.log").is_file()


def test_without_the_daemon_it_is_not_proven(gpu, tmp_path):
    """Tenants that never reached the daemon, as after a wrong pipe directory, are found out."""
    with open_sharing(spec_of(MpsLimits(active_thread_pct=50)), gpu, work_dir=tmp_path) as mode:
        stray = Tenant(mode.environment(["t0"]) | {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mtexp-no-daemon-here"})
        try:
            facts = {"t0": stray.facts()[0]}
            seen = mode.observe()
            record, findings = mode.prove(facts, facts, seen, seen)
        finally:
            stray.process.kill()
            stray.process.communicate()
    assert not record["proven"]
    assert {"mps-not-enabled", "mps-client-missing"} <= {finding.code for finding in findings}


@pytest.mark.parametrize("mode_name", ["processes", "streams"])
def test_time_slicing_and_streams(gpu, tmp_path, mode_name):
    """Without MPS the negative is proven; with streams, one process and distinct streams."""
    spec = spec_of(MpsLimits(), MpsLimits(), mps="disabled", mode=mode_name)
    streams = 2 if mode_name == "streams" else 0
    with open_sharing(spec, gpu, work_dir=tmp_path) as mode, tenants_of(mode, streams) as started:
        facts = facts_of(mode, started)
        seen = mode.observe()
        record, findings = mode.prove(facts, facts, seen, mode.observe())
    sys.stdout.write(json.dumps(record, indent=1) + "\n")
    assert findings == ()


def test_time_slicing_is_not_caught_by_a_daemon(gpu, tmp_path, monkeypatch):
    """With a daemon up and named in our environment, time-sliced tenants still do not use it."""
    with open_sharing(spec_of(MpsLimits()), gpu, work_dir=tmp_path) as mps:
        monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", mps.environment(["t0"])["CUDA_MPS_PIPE_DIRECTORY"])
        with (
            open_sharing(spec_of(MpsLimits(), mps="disabled"), gpu, work_dir=tmp_path) as mode,
            tenants_of(mode) as started,
        ):
            assert facts_of(mode, started)["t0"]["mps_enabled"] == 0


def test_external(gpu, tmp_path):
    """A daemon that is not ours is attached to and proven, and still answers afterwards."""
    with open_sharing(spec_of(MpsLimits()), gpu, work_dir=tmp_path) as owner:
        pipe = owner.observe()["pipe_directory"]
        spec = spec_of(MpsLimits(active_thread_pct=50), mps="external", pipe_directory=pipe)
        with open_sharing(spec, gpu, work_dir=tmp_path) as mode, tenants_of(mode) as started:
            facts = facts_of(mode, started)
            seen = mode.observe()
            assert mode.prove(facts, facts, seen, seen)[1] == ()
        assert "error" not in owner.observe()


def test_pinned_memory_limit(gpu, tmp_path):
    """A tenant over its pinned memory limit gets out of memory; the limit is in effect."""
    code = "import torch; torch.empty(3 * 2**30, dtype=torch.uint8, device='cuda')"
    with open_sharing(spec_of(MpsLimits(pinned_memory_limit="2G")), gpu, work_dir=tmp_path) as mode:
        environment = {name: value for name, value in mode.environment(["t0"]).items() if value}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode != 0
        assert "out of memory" in done.stderr
        assert "MPS limit 2G" in (mode.explain(done.stderr) or "")


def test_path_too_long(gpu, tmp_path, monkeypatch):
    """A directory that the daemon cannot use is its failure told, not tenants silently without MPS."""
    monkeypatch.setattr(daemon.commands, "MAX_PIPE_CHARS", 200)
    root = Path("/tmp") / ("mt" + "x" * 80)
    root.mkdir()
    try:
        with pytest.raises(HostError) as caught, ManagedMps(spec_of(MpsLimits()), gpu, tmp_path, root=root):
            pass
        sys.stdout.write(f"{caught.value}\n")
        assert list(root.iterdir()) == []
    finally:
        root.rmdir()


def test_static_partitioning_is_offered_or_refused(gpu, tmp_path):
    """The installed binary is asked: a partition of 8 SMs a chunk, or a clear refusal."""
    spec = spec_of(MpsLimits(sm_partition=4), static_partitioning=True)
    refusal = ""
    try:
        with open_sharing(spec, gpu, work_dir=tmp_path) as mode, tenants_of(mode) as started:
            facts = facts_of(mode, started)
            seen = mode.observe()
            assert mode.prove(facts, facts, seen, seen)[1] == ()
    except MtexpError as error:
        refusal = str(error)
    sys.stdout.write(f"{refusal or 'offered'}\n")
    assert not refusal or "CUDA 13.1" in refusal


def test_release_of_a_busy_client(gpu, tmp_path):
    """terminate_client takes a busy tenant off the GPU; the other stays, and the server stays ACTIVE."""
    with open_sharing(spec_of(MpsLimits(), MpsLimits()), gpu, work_dir=tmp_path) as mode, tenants_of(mode) as started:
        facts_of(mode, started)
        mode.observe()
        started[0].work()
        mode.release(started[0].process.pid)
        started[0].process.kill()
        started[0].process.wait(20)
        seen = mode.observe()
        assert started[1].process.pid in [client["pid"] for client in seen["clients"]]
        assert seen["servers"][0]["status"] == "ACTIVE"


def test_server_killed(gpu, tmp_path):
    """SIGKILL of the MPS server under a busy tenant is found by the proof, and nothing is left."""
    with open_sharing(spec_of(MpsLimits()), gpu, work_dir=tmp_path) as mode, tenants_of(mode) as started:
        facts = facts_of(mode, started)
        before = mode.observe()
        started[0].work()
        os.kill(mode.pids()[0], signal.SIGKILL)
        time.sleep(1)  # the daemon notices
        after = mode.observe()
        record, findings = mode.prove(facts, facts, before, after)
    sys.stdout.write(f"{after}\n{findings}\n")
    assert not record["proven"]


PARENT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
sys.path[:0] = {paths!r}
import test_sharing_gpu as t
from mtexp.telemetry.nvml import find_devices
with t.open_sharing(t.spec_of(t.MpsLimits()), find_devices()[0], work_dir=Path({work!r})) as mode:
    tenant = t.Tenant(mode.environment(["t0"]))
    print(tenant.facts()[0]["pid"], flush=True)
    time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_parent_killed(gpu, tmp_path, number):
    """A signal to the run, SIGKILL too, leaves no daemon, no server, no directory, also with a client still there."""
    script = PARENT.format(paths=[str(Path(__file__).parent), REPOSITORY], work=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert select.select([parent.stdout], [], [], 180)[0]
        tenant = int(parent.stdout.readline())
        assert left_over() != []
        parent.send_signal(number)
        parent.wait(60)
    begin = time.monotonic()
    while left_over() and time.monotonic() < begin + 30:
        time.sleep(0.05)
    sys.stdout.write(f"gone after {time.monotonic() - begin:.2f} s\n")
    with contextlib.suppress(ProcessLookupError):  # the launcher gives tenants a death signal; this stand-in has none
        os.kill(tenant, signal.SIGKILL)
    assert left_over() == []
