"""What one reading of the GPU gives, value by value, over the NVML fake."""

import math

import pynvml
import pytest

from mtexp.errors import HostError
from mtexp.telemetry.gpu import CONTEXT_SWITCHES, COUNTERS, GPM_METRICS, POLLED, GpuProbe
from mtexp.telemetry.probes import FAST, GPM, RARE
from mtexp.testing.nvml import FakeGpu, FakeMig, FakeNvml

UUID = FakeGpu().uuid
POLLED_VALUES = dict(zip(POLLED, (99.0, 20.0, 4096.0, 680.0, 1755.0, 3201.0, 61.0, 4.0), strict=True))
VALUES = {
    **POLLED_VALUES,
    **dict.fromkeys(COUNTERS, 5.0),
    **{name: 10.0 + place for place, name in enumerate((*GPM_METRICS, *CONTEXT_SWITCHES))},
    "gpu_energy_j": 1e6,
    "gpu_ecc_corrected": 1.0,
    "gpu_ecc_uncorrected": 0.0,
}


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now_ns = 1_000_000_000_000

    def __call__(self):
        return self.now_ns

    def forward(self, seconds):
        self.now_ns += round(seconds * 1e9)


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.fixture(name="reading")
def _reading(clock):
    """Open a probe over one fake GPU and read columns from it by name."""
    opened = []

    def make(uuid=UUID, tenants=None, by_tenant=False, **changes):
        gpu = FakeGpu(**{"values": VALUES, **changes})
        lib = FakeNvml(gpu, clock_ns=clock)
        probe = GpuProbe(uuid, tenants or {}, process_util=by_tenant, lib=lib, clock_ns=clock)
        probe.open()
        opened.append((probe, lib))

        def read(group):
            return dict(zip(probe.columns()[group], probe.read(group), strict=True))

        return probe, read

    yield make
    for probe, lib in opened:
        probe.close()
        assert lib.sessions == 0


def test_polled_values_arrive_in_their_units(reading):
    """Each column holds what NVML said, in the unit of its name."""
    _, read = reading()

    found = read(FAST)

    assert {name: found[name] for name in POLLED} == pytest.approx(POLLED_VALUES)


@pytest.mark.parametrize(
    ("refused", "columns"),
    [
        ("nvmlDeviceGetUtilizationRates", ["gpu_util_pct", "gpu_memory_util_pct"]),
        ("nvmlDeviceGetMemoryInfo", ["gpu_memory_used_mib"]),
        ("nvmlDeviceGetClockInfo", ["gpu_sm_clock_mhz", "gpu_mem_clock_mhz"]),
        ("nvmlDeviceGetTemperature", ["gpu_temperature_c"]),
        ("nvmlDeviceGetCurrentClocksEventReasons", ["gpu_throttle_reasons"]),
        ("field 269", ["gpu_throttled_sw_thermal_s"]),
        ("nvmlDeviceGetFieldValues", list(COUNTERS)),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_each_value_has_its_own_return_code(reading, refused, columns, code):
    """A refused value is absent, not 0, with its reason noted, and the others are there."""
    probe, read = reading(codes={refused: code})

    found = read(FAST)

    assert {name for name, value in found.items() if math.isnan(value)} == set(columns)
    assert probe.notes()["absent"][refused] == str(pynvml.NVMLError(code))


def test_what_is_not_supported_is_not_asked_again(reading):
    """A refusal for good costs nothing in later rounds; a passing one is tried again."""
    codes = {"nvmlDeviceGetTemperature": pynvml.NVML_ERROR_NOT_SUPPORTED, "field 197": pynvml.NVML_ERROR_UNKNOWN}
    probe, read = reading(codes=codes)
    read(FAST)
    probe._lib.calls.clear()
    codes.clear()

    found = read(FAST)

    assert "nvmlDeviceGetTemperature" not in probe._lib.calls
    assert math.isnan(found["gpu_temperature_c"])
    assert found["gpu_pcie_tx_mib"] == 0


@pytest.mark.parametrize(("codes", "source"), [({}, "186"), ({"field 186": 3}, "1 s average")])
def test_power_says_where_it_comes_from(reading, codes, source):
    """Instant power where the driver offers it, else the averaged one, and the record says which."""
    probe, read = reading(codes=codes)

    assert read(FAST)["gpu_power_w"] == 680
    assert source in probe.notes()["power_source"]


def test_counters_count_from_the_start(reading):
    """Cumulative counters since the driver was loaded become growth since the sampler's start."""
    values = dict(VALUES)
    _, read = reading(values=values)
    read(FAST), read(RARE)
    values["gpu_throttled_power_cap_s"] += 4.25
    values["gpu_energy_j"] += 680.0

    assert read(FAST)["gpu_throttled_power_cap_s"] == pytest.approx(4.25)
    assert read(RARE)["gpu_energy_j"] == pytest.approx(680)


def test_energy_falls_back_to_its_own_call(reading):
    """Where field 83 is not offered, nvmlDeviceGetTotalEnergyConsumption is."""
    _, read = reading(codes={"field 83": pynvml.NVML_ERROR_NOT_SUPPORTED})

    assert read(RARE)["gpu_energy_j"] == 0


def test_gpm_values_are_read_between_two_samples(reading, clock):
    """After a long enough interval every metric has its value, again and again."""
    _, read = reading()
    for _ in range(3):
        clock.forward(0.25)
        found = read(GPM)
        assert {name: found[name] for name in (*GPM_METRICS, *CONTEXT_SWITCHES)} == {
            name: VALUES[name] for name in (*GPM_METRICS, *CONTEXT_SWITCHES)
        }


def test_gpm_is_not_trusted_over_short_intervals(reading, clock):
    """Under 0.1 s GPM answers 0 and NaN with a success code: none gets through, and no sample is lost by it."""
    _, read = reading()
    clock.forward(0.05)
    assert all(math.isnan(value) for value in read(GPM).values())
    clock.forward(0.06)
    assert read(GPM)["gpu_sm_active_pct"] == VALUES["gpu_sm_active_pct"]


def test_gpm_metric_that_is_not_there(reading, clock):
    """One metric without an answer is absent alone, with the reason."""
    probe, read = reading(codes={"gpm 60": pynvml.NVML_ERROR_NOT_SUPPORTED})
    clock.forward(0.25)

    found = read(GPM)

    assert [name for name, value in found.items() if math.isnan(value)] == ["gpu_nvlink_rx_mib_per_s"]
    assert probe.notes()["absent"]["gpm 60"] == "Not Supported"


def test_context_switches_that_the_driver_does_not_count(reading, clock):
    """Success and 0 for all context-switch counters is no measurement: absent, with a statement."""
    probe, read = reading(values=VALUES | dict.fromkeys(CONTEXT_SWITCHES, 0.0))
    clock.forward(0.25)

    found = read(GPM)

    assert all(math.isnan(found[name]) for name in CONTEXT_SWITCHES)
    assert found["gpu_sm_active_pct"] == VALUES["gpu_sm_active_pct"]
    assert "counts nothing" in probe.notes()["absent"]["gpm context switches"]


def test_a_driver_older_than_the_context_switch_counters(reading, clock):
    """It refuses a question that names them: the other metrics are asked for without them, at once and ever after."""
    probe, read = reading(gpm_metrics_max=97)
    for _ in range(2):
        clock.forward(0.25)
        found = read(GPM)
        assert {name: found[name] for name in GPM_METRICS} == {name: VALUES[name] for name in GPM_METRICS}
        assert all(math.isnan(found[name]) for name in CONTEXT_SWITCHES)

    absent = probe.notes()["absent"]
    assert "without them" in absent["gpm context switches"]
    assert "nvmlGpmMetricsGet" not in absent
    assert probe._lib.calls.count("nvmlGpmMetricsGet") == 3


def test_context_switches_outlive_a_passing_refusal(reading, clock):
    """One failure that also hits the question without them is not their fault: the next reading has them again."""
    codes = {"nvmlGpmMetricsGet": pynvml.NVML_ERROR_UNKNOWN}
    _, read = reading(codes=codes)
    clock.forward(0.25)
    assert all(math.isnan(value) for value in read(GPM).values())
    codes.clear()
    clock.forward(0.25)

    assert read(GPM)["gpu_ctxsw_requests"] == VALUES["gpu_ctxsw_requests"]


def test_no_gpm_before_hopper(reading, clock):
    """A GPU without GPM gives no GPM value and says why; the rest is measured."""
    probe, read = reading(gpm=False)
    clock.forward(0.25)

    assert all(math.isnan(value) for value in read(GPM).values())
    assert "Hopper" in probe.notes()["absent"]["gpm"]
    assert read(FAST)["gpu_power_w"] == 680


def test_gpm_of_a_mig_instance(reading, clock):
    """A MIG instance is sampled as such; power and clocks are those of its GPU."""
    _, read = reading("MIG-1", mig_mode=1, instances=(FakeMig("MIG-1", gi_id=5),))
    clock.forward(0.25)

    assert read(GPM)["gpu_sm_active_pct"] == VALUES["gpu_sm_active_pct"]
    assert read(FAST)["gpu_power_w"] == 680
    assert math.isnan(read(FAST)["gpu_util_pct"])


def test_memory_of_each_tenant(reading):
    """NVML's compute and MPS lists give each tenant's memory; what neither says is absent."""
    _, read = reading(
        tenants={"a": 10, "b": 11, "c": 12, "d": 13, "e": 13},
        compute=[(10, 2**30), (12, None)],
        mps=[(11, 2**29), (13, 2**28)],
    )

    found = {key: value for key, value in read(RARE).items() if key.startswith("tenant")}

    assert math.isnan(found.pop("tenant_gpu_memory_mib/c"))
    assert found == {
        "tenant_gpu_memory_mib/a": 1024,
        "tenant_gpu_memory_mib/b": 512,
        "tenant_gpu_memory_mib/d+e": 256,
    }


def test_utilisation_of_each_tenant_only_on_request(reading):
    """Under CUDA MPS NVML charges the server, so the column exists only where it was asked for."""
    shared, _ = reading(tenants={"a": 10})
    _, read = reading(tenants={"a": 10, "b": 11}, by_tenant=True, process_util=[(10, 40), (99, 60)])

    found = read(RARE)

    assert not [name for name in shared.columns()[RARE] if "util" in name]
    assert found["tenant_gpu_util_pct/a"] == 40
    assert math.isnan(found["tenant_gpu_util_pct/b"])


def test_xids_are_collected_without_waiting(reading):
    """Every event since the last poll is kept with its time, type and number."""
    probe, read = reading(events=[(pynvml.nvmlEventTypeXidCriticalError, 31), (8, 43)])
    read(RARE)

    assert [event[1:] for event in probe.notes()["events"]] == [[8, 31], [8, 43]]


def test_unknown_gpu_is_refused_with_nvml_shut_down(clock):
    """A wrong UUID is an error with a remedy, and NVML is not left open."""
    lib = FakeNvml(FakeGpu(), clock_ns=clock)
    with pytest.raises(HostError, match="GPU-nowhere"):
        GpuProbe("GPU-nowhere", {}, lib=lib).open()

    assert lib.sessions == 0


def test_utilisation_of_every_process_is_kept_in_the_notes(reading, clock):
    """Foreign ones too, and also under CUDA MPS; a device that does not answer leaves nothing."""
    probe, read = reading(tenants={"a": 10}, process_util=[(10, 40), (99, 60)])
    read(RARE)
    assert probe.notes()["process_util"] == [[clock.now_ns, [[10, 40], [99, 60]]]]

    refused = {"nvmlDeviceGetProcessUtilization": pynvml.NVML_ERROR_NOT_SUPPORTED}
    probe, read = reading(process_util=[(10, 40)], codes=refused)
    read(RARE)
    assert probe.notes()["process_util"] == []


def test_memory_that_is_withheld_is_absent(reading):
    """0 bytes of a process that has a context are no figure."""
    _, read = reading(tenants={"a": 10}, compute=[(10, 2**30)], withholds_memory=True)
    assert math.isnan(read(RARE)["tenant_gpu_memory_mib/a"])


@pytest.mark.parametrize("size", [2**32, 2**64])
def test_a_pcie_counter_that_begins_again_goes_on(reading, monkeypatch, size):
    """Its value can be wrapped, says nvml.h; time that was throttled, which does not wrap, is taken as it is."""
    probe, read = reading()
    mib = 2**20
    values = iter([size - 3 * mib, 1 * mib, 2 * mib, size - mib, mib])
    monkeypatch.setattr(probe, "_fields", lambda wanted: {197: float(next(values)), 74: 1e9})

    found = [read(FAST) for _ in range(5)]

    moved = [row["gpu_pcie_tx_mib"] for row in found]
    assert moved[:3] == pytest.approx([0, 4, 5], abs=0.01)
    assert moved[4] - moved[3] == pytest.approx(2, abs=0.01)
    assert all(row["gpu_throttled_power_cap_s"] == 0 for row in found)
