"""Devices, facts, processes and MIG instances, over the NVML fake."""

import inspect
import os

import psutil
import pynvml
import pytest

from mtexp.errors import HostError
from mtexp.telemetry import nvml
from mtexp.testing.nvml import STATE, FakeGpu, FakeMig, FakeNvml

A, B = "GPU-aaaa1111-0000-0000-0000-000000000000", "GPU-bbbb2222-0000-0000-0000-000000000000"
SMALL = FakeMig("MIG-11111111-0000-0000-0000-000000000000", "1g.18gb", gi_id=9, memory_mib=16_384, sm_count=16)
LARGE = FakeMig("MIG-22222222-0000-0000-0000-000000000000", "3g.71gb", gi_id=1, memory_mib=71_680, sm_count=60)


@pytest.fixture(autouse=True)
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caller's environment hides."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def _host(**changes):
    return FakeNvml(FakeGpu(A, **changes), FakeGpu(B))


def _uuids(lib, visible):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return [device.uuid for device in nvml.find_devices(lib, environ)]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [A, B]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [B]),
        ("1,0", [B, A]),
        (" 0 , 1 ", [A, B]),
        ("0,7,1", [A]),
        ("0,0,1", [A]),
        (B, [B]),
        ("GPU-bbbb", [B]),
        ("GPU-", []),
        (f"{B},0", [B, A]),
    ],
)
def test_cuda_visible_devices_is_honoured(visible, expected):
    """The devices are those that CUDA would show, in its order; an entry that names nothing hides what follows."""
    assert _uuids(_host(), visible) == expected


@pytest.mark.parametrize("name", [SMALL.uuid, f"MIG-{A}/9/0"])
def test_mig_instance_named_by_cuda_visible_devices(name):
    """A MIG instance is a device of its own that knows its GPU, in both spellings of its name."""
    lib = _host(mig_mode=1, instances=(LARGE, SMALL))

    (device,) = nvml.find_devices(lib, {"CUDA_VISIBLE_DEVICES": name})

    assert (device.uuid, device.parent_uuid, device.lease_key) == (SMALL.uuid, A, A)
    assert (device.memory_mib, device.sm_count, device.name) == (16_384, 16, "NVIDIA H200 MIG 1g.18gb")


def test_device_knows_size_and_multiprocessors():
    """Memory and SM count come without starting CUDA."""
    device = nvml.find_devices(_host(), {})[0]

    assert (device.kind, device.index, device.memory_mib, device.sm_count) == ("gpu", 0, 143_771, 132)


def test_unknown_architecture_has_no_multiprocessor_count():
    """What cannot be derived is unknown, not guessed."""
    assert nvml.find_devices(_host(capability=(6, 1)), {})[0].sm_count is None


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_driver_is_no_device(code):
    """A host without NVML simply has no GPU."""
    assert nvml.find_devices(FakeNvml(init_code=code), {}) == []


def test_a_broken_gpu_is_left_out_with_a_warning(caplog):
    """One GPU that fell off the bus does not hide the other."""
    lib = _host(codes={"nvmlDeviceGetUUID": pynvml.NVML_ERROR_GPU_IS_LOST})

    assert _uuids(lib, None) == [B]
    assert "GPU is lost" in caplog.text


def test_a_gpu_that_shares_the_hosts_memory_has_the_hosts_memory():
    """GB10, Jetson: NVML does not answer for its memory, and it is a GPU all the same."""
    (device,) = nvml.find_devices(FakeNvml(FakeGpu(A, unified_memory=True)), {})

    assert (device.kind, device.memory_mib) == ("gpu", psutil.virtual_memory().total // 2**20)


def test_a_container_with_a_mig_instance_need_not_know_the_memory_of_its_gpu():
    """Asking for that is not permitted there; the memory is that of the instances which are visible."""
    denied = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NO_PERMISSION}
    lib = FakeNvml(FakeGpu(A, mig_mode=1, instances=(SMALL,), whole_gpu_codes=denied))

    (device,) = nvml.find_devices(lib, {})

    assert device.memory_mib == SMALL.memory_mib
    assert [instance.uuid for instance in device.mig_instances] == [SMALL.uuid]


@pytest.mark.parametrize(
    ("lib", "why"),
    [
        (FakeNvml(init_code=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND), ""),
        (FakeNvml(init_code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), ""),
        (FakeNvml(), ""),
        (FakeNvml(init_code=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH), "NVML does not start"),
        (FakeNvml(FakeGpu(A, codes={"nvmlDeviceGetUUID": pynvml.NVML_ERROR_GPU_IS_LOST})), "GPU 0: GPU is lost"),
        (
            FakeNvml(FakeGpu(A, codes={"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NO_PERMISSION})),
            "GPU 0: Insufficient Permissions",
        ),
    ],
)
def test_a_gpu_that_is_there_and_cannot_be_used_has_a_reason(lib, why):
    """A host without a GPU has none; unless its owner hides them all, which is no loss."""
    devices, lost = nvml.look_for_devices(lib, {})

    assert devices == []
    assert lost.startswith(why) if why else not lost
    assert nvml.look_for_devices(lib, {"CUDA_VISIBLE_DEVICES": ""}) == ([], "")


def test_nvml_is_shut_down_after_every_question():
    """Nothing of NVML stays open in a process that forks tenants, also when a question fails."""
    lib = _host(compute=[(1, 1)])
    nvml.find_devices(lib, {})
    nvml.facts(A, lib)
    nvml.processes(A, lib)
    with pytest.raises(HostError, match="nvidia-smi -L"):
        nvml.facts("GPU-unknown", lib)

    assert lib.sessions == 0


def test_facts_say_driver_and_modes():
    """The environment record gets driver, CUDA, modes, limits and clocks."""
    found = nvml.facts(A, _host())

    assert found["driver_version"] == "580.159.04"
    assert found["cuda_version"] == "13.0"
    assert (found["compute_mode"], found["mig_mode"], found["ecc_mode"]) == ("default", "disabled", "enabled")
    assert (found["power_limit_w"], found["max_sm_clock_mhz"]) == (700.0, 1980)


def test_facts_that_are_refused_are_absent():
    """A driver that does not answer leaves no key behind, rather than a zero."""
    codes = dict.fromkeys(("nvmlDeviceGetEccMode", "nvmlDeviceGetEnforcedPowerLimit"), pynvml.NVML_ERROR_NOT_SUPPORTED)

    found = nvml.facts(A, _host(codes=codes, mig_mode=None))

    assert not {"ecc_mode", "power_limit_w", "mig_mode"} & found.keys()


def test_mig_instances_are_listed_with_profile_and_parent():
    """Tenants can be placed by UUID or by profile name."""
    found = list(nvml.find_devices(_host(mig_mode=1, instances=(LARGE, SMALL)))[0].mig_instances)

    assert [(i.uuid, i.profile, i.gi_id, i.memory_mib, i.parent_uuid) for i in found] == [
        (LARGE.uuid, "3g.71gb", 1, 71_680, A),
        (SMALL.uuid, "1g.18gb", 9, 16_384, A),
    ]


def test_a_mig_instance_is_a_device_when_it_is_named():
    """``runtime.device`` names a GPU by UUID or index, or one instance of it; nothing named is any GPU."""
    gpus = nvml.find_devices(_host(mig_mode=1, instances=(LARGE, SMALL)), {})

    (instance,) = nvml.chosen(gpus, SMALL.uuid)
    assert (instance.uuid, instance.parent_uuid, instance.sm_count) == (SMALL.uuid, A, SMALL.sm_count)
    assert instance.name.endswith("MIG 1g.18gb")
    assert nvml.chosen(gpus, "") == gpus
    assert nvml.chosen(gpus, A) == nvml.chosen(gpus, "0") == gpus[:1]
    assert nvml.chosen(gpus, "MIG-nowhere") == []


@pytest.mark.parametrize("mode", [0, None])
def test_no_mig_no_instances(mode):
    """MIG off, or a GPU without it, is an empty list and no error."""
    (device, *_) = nvml.find_devices(_host(mig_mode=mode, instances=(SMALL,)))
    assert device.mig_instances == ()


def test_possible_profiles_for_the_remedy():
    """What an administrator could create is known; a GPU without MIG offers nothing."""
    with_mig, without = (nvml.find_devices(_host(mig_mode=mode))[0] for mode in (0, None))
    assert with_mig.mig_profiles[:2] == ("1g.18gb", "2g.35gb")
    assert without.mig_profiles == ()


def test_process_is_named_with_program_and_never_with_arguments():
    """The message says which program to stop; arguments can hold secrets."""
    (found,) = nvml.processes(A, _host(compute=[(os.getpid(), 2**30)]))

    assert "python" in found.name or "pytest" in found.name
    assert "telemetry" not in found.name
    assert found.memory_mib == 1024


def test_fake_has_the_signatures_of_the_real_library():
    """The fake cannot drift from nvidia-ml-py: each call exists there and takes the same number of arguments."""
    own = {name: call for name, call in inspect.getmembers(FakeNvml, inspect.isfunction) if name.startswith("nvml")}
    for name, call in own.items():
        real = inspect.unwrap(getattr(pynvml, name))
        assert list(inspect.signature(call).parameters)[1:] == list(inspect.signature(real).parameters), name
    assert all(callable(getattr(pynvml, name)) for name in STATE)


def test_fake_refuses_unknown_calls():
    """A call nobody taught the fake is an error of the test, not an answer."""
    with pytest.raises(AttributeError, match="does not know"):
        _ = _host().nvmlDeviceResetGpuLockedClocks
