"""Time slicing, streams, MIG, the CPU: which processes, which environment, which proof; and what is refused."""

import dataclasses

import pytest
from sharing_helpers import UUID, facts_of, make_spec

from mtexp.errors import ConfigError, HostError
from mtexp.host import MigInstance
from mtexp.running.baselines import baseline_spec
from mtexp.sharing import open_sharing
from mtexp.sharing.mig import place
from mtexp.spec import MpsLimits


@pytest.fixture(name="opened")
def _opened(device, tmp_path):
    """Open a mode without entering it."""

    def make(tenants=2, runtime="gpu", gpu=device, **sharing):
        spec = dataclasses.replace(make_spec(*[MpsLimits()] * tenants, **sharing), runtime=runtime)
        return open_sharing(spec, gpu, work_dir=tmp_path)

    return make


def without_mps(pid, **changes):
    return facts_of(pid, mps_enabled=0, **changes)


def codes(findings):
    return [finding.code for finding in findings]


def test_time_slicing_keeps_daemons_away(stub, opened):
    """Tenants get a pipe directory in which nothing is, and the GPU by UUID; nothing is created for it."""
    stub(time_slice="Long")
    with opened(mps_mode="disabled") as mode:
        assert mode.groups() == (("t0",), ("t1",))
        environment = mode.environment(["t0"])
        seen = mode.observe()
    assert environment["CUDA_VISIBLE_DEVICES"] == UUID
    assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == ""
    assert environment["CUDA_MPS_PIPE_DIRECTORY"] == seen["pipe_directory"]
    assert (seen["daemon"], seen["time_slice"], seen["compute_mode"]) == (False, "long", "default")
    assert mode.release(1) is None


def test_unknown_policy_is_absent(stub, opened):
    """What nvidia-smi does not tell is absent, not invented."""
    stub(time_slice="", compute_mode="")
    with opened(mps_mode="disabled") as mode:
        assert set(mode.observe()) == {"pipe_directory", "daemon"}


def test_time_slicing_proof(opened):
    """No MPS, distinct processes and all SMs prove it; an MPS client or a cap disproves it."""
    mode = opened(mps_mode="disabled")
    seen = {"daemon": False, "compute_mode": "default"}
    healthy = {"t0": without_mps(1), "t1": without_mps(2)}
    assert mode.prove(healthy, healthy, seen, seen)[1] == ()
    caught = healthy | {"t1": facts_of(2)}
    assert codes(mode.prove(caught, healthy, seen, seen)[1]) == ["mps-not-expected"]
    capped = healthy | {"t1": without_mps(2, sm_count=66)}
    assert codes(mode.prove(capped, healthy, seen, seen)[1]) == ["sm-count"]
    blind = healthy | {"t1": {key: value for key, value in without_mps(2).items() if key != "mps_enabled"}}
    assert codes(mode.prove(blind, healthy, seen, seen)[1]) == ["mps-attribute-missing"]
    assert codes(mode.prove(healthy, healthy, seen, seen | {"daemon": True})[1]) == ["mps-daemon-found"]
    same = {"t0": without_mps(1), "t1": without_mps(1)}
    assert codes(mode.prove(same, same, seen, seen)[1]) == ["pid-shared"]


def test_exclusive_process_refuses_several(stub, opened):
    """EXCLUSIVE_PROCESS without MPS lets one tenant run, and refuses two with the command to change it."""
    stub(compute_mode="Exclusive_Process")
    with pytest.raises(HostError, match=r"EXCLUSIVE_PROCESS.*nvidia-smi -i 0 -c DEFAULT"), opened(mps_mode="disabled"):
        pass
    with opened(tenants=1, mps_mode="disabled"):
        pass
    with opened(mode="streams", mps_mode="disabled"):
        pass


@pytest.mark.parametrize("sharing", [{"mps_mode": "disabled"}, {"mps_mode": "managed"}])
def test_prohibited_is_refused(stub, opened, sharing):
    """Compute mode PROHIBITED is refused before anything starts."""
    stub(compute_mode="Prohibited")
    with pytest.raises(HostError, match="PROHIBITED"), opened(**sharing):
        pass


def test_streams(opened):
    """One process for all; proven by one pid and distinct streams."""
    mode = opened(mode="streams", mps_mode="disabled")
    assert mode.groups() == (("t0", "t1"),)
    facts = {"t0": without_mps(5, stream_id=10), "t1": without_mps(5, stream_id=20)}
    assert mode.prove(facts, facts, {}, {})[1] == ()
    serial = {"t0": without_mps(5, stream_id=0), "t1": without_mps(5, stream_id=0)}
    assert codes(mode.prove(serial, facts, {}, {})[1]) == ["stream-id-shared"]
    split = {"t0": without_mps(5, stream_id=10), "t1": without_mps(6, stream_id=20)}
    assert codes(mode.prove(split, facts, {}, {})[1]) == ["not-one-process"]


@pytest.mark.parametrize("mode", ["streams", "mig"])
def test_mps_goes_with_processes_only(opened, mode):
    """CUDA MPS with streams or MIG is refused by name."""
    with pytest.raises(ConfigError, match=f"mps_settings=managed.*sharing={mode}"):
        opened(mode=mode, mps_mode="managed")


def test_unknown_mode(opened):
    """A mode that does not exist lists those that do."""
    with pytest.raises(ConfigError, match="processes with external"):
        opened(mode="threads", mps_mode="disabled")


def test_cpu_processes_and_threads(opened):
    """On the CPU: distinct pids, or one pid; nothing in the environment; MPS is said to have no effect."""
    mode = opened(runtime="cpu", mps_mode="disabled")
    with mode:
        assert mode.environment(["t0"]) == {}
        assert mode.observe() == {}
    assert mode.prove({"t0": {"pid": 1}, "t1": {"pid": 2}}, {"t0": {"pid": 1}, "t1": {"pid": 2}}, {}, {})[1] == ()
    assert codes(mode.prove({"t0": {"pid": 1}, "t1": {"pid": 1}}, {"t0": {"pid": 1}, "t1": {"pid": 2}}, {}, {})[1]) == [
        "pid-shared"
    ]
    streams = opened(runtime="cpu", mode="streams", mps_mode="disabled")
    assert streams.groups() == (("t0", "t1"),)
    threads = {"t0": {"pid": 1, "thread_id": 7}, "t1": {"pid": 1, "thread_id": 8}}
    assert streams.prove(threads, threads, {}, {})[1] == ()
    silent = {"t0": {"pid": 1}, "t1": {"pid": 1}}
    assert codes(streams.prove(silent, silent, {}, {})[1]) == ["thread-id-missing"]
    mps = opened(runtime="cpu", mps_mode="managed")
    record, (note,) = mps.prove({"t0": {"pid": 1}, "t1": {"pid": 2}}, {"t0": {"pid": 1}, "t1": {"pid": 2}}, {}, {})
    assert (note.level, record["proven"]) == ("note", True)
    assert mps.explain("CUDA error 805") is None


INSTANCES = (
    MigInstance("MIG-a", "3g.71gb", 1, 0, 71424, UUID, 60),
    MigInstance("MIG-b", "3g.71gb", 2, 0, 71424, UUID, 60),
    MigInstance("MIG-c", "1g.18gb", 9, 0, 18176, UUID, 16),
)


def tenants(*mig):
    spec = make_spec(*[MpsLimits()] * len(mig), mps_mode="disabled", mode="mig")
    return tuple(dataclasses.replace(tenant, mig=name) for tenant, name in zip(spec.tenants, mig, strict=True))


@pytest.mark.parametrize(
    ("asked", "placed"),
    [
        (["", "", "", ""], ["MIG-a", "MIG-b", "MIG-c", "MIG-a"]),
        (["3g.71gb"] * 3, ["MIG-a", "MIG-b", "MIG-a"]),
        (["MIG-c", "1g.18gb"], ["MIG-c", "MIG-c"]),
    ],
)
def test_placement(asked, placed):
    """Tenants go to the instance named, or in turn to those of the profile named, or to all."""
    assert [instance.uuid for instance in place(tenants(*asked), INSTANCES).values()] == placed


def test_placement_of_a_profile_that_is_not_there():
    """An unknown profile is refused with those that exist."""
    with pytest.raises(ConfigError, match=r"mix.tenants.t0.mig=7g.141gb: allowed: 1g.18gb, 3g.71gb, MIG-a"):
        place(tenants("7g.141gb"), INSTANCES)


def test_mig_environment_and_proof(stub, device, opened):
    """Each tenant sees its instance only; proven by the instance's UUID, or by its SMs where CUDA tells the GPU's."""
    stub()
    mode = opened(mode="mig", mps_mode="disabled", gpu=dataclasses.replace(device, mig_instances=INSTANCES[:2]))
    with mode:
        assert mode.environment(["t1"])["CUDA_VISIBLE_DEVICES"] == "MIG-b"
        by_uuid = {
            "t0": without_mps(1, gpu_uuid="MIG-a", sm_count=60),
            "t1": without_mps(2, gpu_uuid="GPU-b", sm_count=60),
        }
        record, findings = mode.prove(by_uuid, by_uuid, {}, {})
        assert findings == ()
        assert record["tenants"]["t1"]["mig_uuid"] == "MIG-b"
        by_parent = {"t0": without_mps(1, sm_count=60), "t1": without_mps(2, sm_count=60)}
        assert mode.prove(by_parent, by_parent, {}, {})[1] == ()
        whole = {"t0": without_mps(1), "t1": without_mps(2, gpu_uuid="MIG-c", sm_count=60)}
        assert codes(mode.prove(whole, by_uuid, {}, {})[1]) == ["sm-count", "wrong-device"]


def test_a_baseline_on_mig_is_alone_on_an_instance():
    """A GPU that is cut has no whole to be alone on; elsewhere the baseline has the whole device and no limits."""
    (tenant,) = tenants("1g.18gb")
    spec = dataclasses.replace(make_spec(mps_mode="disabled", mode="mig"), tenants=(tenant,))
    alone = baseline_spec(tenant, spec)
    assert (alone.sharing.mode, alone.tenants[0].mig) == ("mig", "1g.18gb")
    whole = baseline_spec(tenant, dataclasses.replace(spec, sharing=make_spec(mps_mode="managed").sharing))
    assert (whole.sharing.mps_mode, whole.tenants[0].mig) == ("disabled", "")


def test_mig_instances_of_several_sizes(stub, device, opened):
    """A tenant that may go anywhere would be compared with a baseline on an instance of another size."""
    stub()
    gpu = dataclasses.replace(device, mig_instances=INSTANCES)
    with (
        pytest.raises(ConfigError, match=r"mix\.tenants\.t0\.mig.*1g\.18gb, 3g\.71gb.*another size.*baseline=skip"),
        opened(mode="mig", mps_mode="disabled", gpu=gpu),
    ):
        pass


@pytest.mark.parametrize("sharing", [{"mps_mode": "disabled"}, {"mps_mode": "managed"}])
def test_a_gpu_that_is_cut_into_instances_is_no_whole(stub, device, opened, sharing):
    """CUDA would give every tenant the first instance and call it the GPU; the remedy names both ways to use them."""
    stub()
    gpu = dataclasses.replace(device, mig_instances=INSTANCES)
    with pytest.raises(HostError, match=r"MIG-a, MIG-b.*sharing=mig.*runtime\.device"), opened(gpu=gpu, **sharing):
        pass


def test_an_instance_as_the_whole_device(stub, device, opened):
    """Tenants see it and nothing else; proven by its SMs, also where CUDA tells the UUID of the GPU."""
    stub()
    instance = dataclasses.replace(device, uuid="MIG-a", sm_count=60, parent_uuid=UUID)
    with opened(mps_mode="disabled", gpu=instance) as mode:
        assert mode.environment(["t0"])["CUDA_VISIBLE_DEVICES"] == "MIG-a"
        facts = {"t0": without_mps(1, sm_count=60), "t1": without_mps(2, gpu_uuid="MIG-a", sm_count=60)}
        assert mode.prove(facts, facts, {}, {})[1] == ()
        other = facts | {"t1": without_mps(2, gpu_uuid="GPU-other", sm_count=60)}
        assert codes(mode.prove(other, facts, {}, {})[1]) == ["wrong-device"]


def test_no_mig_instance(device, opened):
    """Without instances: what exists, and the commands for an administrator; none is run."""
    gpu = dataclasses.replace(device, mig_profiles=("1g.18gb", "2g.35gb"))
    with (
        pytest.raises(HostError, match=r"(?s)1g.18gb, 2g.35gb.*-mig 1.*-cgi 1g.18gb,1g.18gb -C"),
        opened(mode="mig", mps_mode="disabled", gpu=gpu),
    ):
        pass
