"""What samples come to over a window, and that a file gives back what was sampled."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.errors import RecordError
from mtexp.records import keys
from mtexp.telemetry.gpu import CONTEXT_SWITCHES, COUNTERS, GPM_METRICS, POLLED, RARE_COUNTERS
from mtexp.telemetry.probes import FAST, GPM, RARE
from mtexp.telemetry.summary import read, summarise
from mtexp.telemetry.table import METADATA, TIME, Samples, Table, load
from mtexp.testing.nvml import FakeGpu
from mtexp.testing.replay import replay

ALL_COLUMNS = (
    *POLLED,
    *COUNTERS,
    *RARE_COUNTERS,
    *GPM_METRICS,
    *CONTEXT_SWITCHES,
    "gpu_energy_j",
    "cpu_util_pct",
    "memory_used_mib",
)
MS = 1_000_000
S = 1_000_000_000


def _samples(times_s, columns, **notes):
    times_ns = np.array([round(t * S) for t in times_s], dtype=np.int64)
    return Samples(times_ns, {name: np.array(column, dtype=float) for name, column in columns.items()}, notes)


def _of(found, column):
    return {name: value for name, value in found.values.items() if name.startswith(column)}


def _every(period_s, until_s):
    return np.arange(0, until_s + period_s / 2, period_s)


def test_only_samples_in_the_window_count():
    """Mean, minimum and maximum are those of the window; warm-up and teardown stay out."""
    samples = _samples([0, 1, 2, 3, 4], {"gpu_util_pct": [0, 10, 20, np.nan, 90]})

    found = summarise(samples, 1 * S, 3 * S)

    assert _of(found, "gpu_util_pct") == {"gpu_util_pct_mean": 15, "gpu_util_pct_min": 10, "gpu_util_pct_max": 20}
    assert found.samples == 3


def test_what_was_not_sampled_is_absent():
    """No sample in the window: no value, no zero."""
    found = summarise(_samples([0, 1], {"gpu_power_w": [np.nan, np.nan]}), 0, 1 * S)

    assert _of(found, "gpu") == {}
    assert (found.energy_j, found.energy_source, found.clock.mhz.size) == (None, "", 0)


def test_averages_belong_to_the_middle_of_their_interval():
    """A GPM value covers the time before it: one that lies mostly before the window is left out."""
    times_s = _every(0.25, 1.5)
    column = [np.nan, 0, 0, 0, 50, 50, 100]
    samples = _samples(
        times_s, {"gpu_sm_active_pct": column}, groups={GPM: ["gpu_sm_active_pct"]}, periods_ms={GPM: 250.0}
    )

    found = summarise(samples, round(0.75 * S), round(1.25 * S))

    assert found.values["gpu_sm_active_pct_min"] == 50
    assert found.values["gpu_sm_active_pct_max"] == 50


def test_energy_by_counter_alone_is_interpolated_at_the_edges():
    """500 W for 3 s in a window whose edges lie between two readings; in a short window it would be a guess: none."""
    samples = _samples(_every(1, 6), {"gpu_energy_j": 500 * _every(1, 6)})

    found = summarise(samples, round(1.4 * S), round(4.4 * S))

    assert found.energy_j == pytest.approx(1500)
    assert found.energy_source == "counter"
    assert summarise(samples, round(1.4 * S), round(1.9 * S)).energy_j is None


def test_energy_by_power_where_the_counter_does_not_span_the_window():
    """Without a counter power is integrated, and the summary says so."""
    times_s = _every(0.05, 4)
    samples = _samples(times_s, {"gpu_power_w": 100 + 50 * times_s})

    found = summarise(samples, 1 * S, 3 * S)

    assert found.energy_j == pytest.approx(2 * 100 + 50 * (9 - 1) / 2)
    assert found.energy_source == "power"


def test_energy_is_absent_where_nothing_spans_the_window():
    """Half a window's energy is not the window's."""
    times_s = _every(0.05, 2)
    samples = _samples(times_s, {"gpu_power_w": 100 + 0 * times_s, "gpu_energy_j": 100 * times_s})

    assert summarise(samples, 1 * S, 3 * S).energy_j is None


@given(
    st.lists(st.floats(0, 700), min_size=10, max_size=60),
    st.floats(0.0, 0.45),
    st.floats(0.05, 0.45),
)
def test_energy_of_a_window_is_the_sum_of_its_parts(watts, start, half):
    """Cutting a window in two changes no energy, whichever way it was found."""
    times_s = np.arange(len(watts)) * 0.05
    end_s = times_s[-1]
    t0, t1, t2 = (round(end_s * x * S) for x in (start, start + half / 2, start + half))
    for name, column in (("gpu_power_w", watts), ("gpu_energy_j", np.cumsum(watts))):
        samples = _samples(times_s, {name: column})
        whole, first, second = (summarise(samples, *edges).energy_j for edges in ((t0, t2), (t0, t1), (t1, t2)))
        if None not in (whole, first, second):
            assert whole == pytest.approx(first + second, abs=1e-3)


def test_throttling_by_counter_that_no_poll_saw():
    """A thermal slowdown between two polls is in the counter, and so in the bits that the verdict reads."""
    samples = _samples(
        [0, 1, 2, 3],
        {
            "gpu_throttle_reasons": [0, 0, 0, 0],
            "gpu_throttled_hw_thermal_s": [0, 0, 0.02, 0.02],
            "gpu_throttled_power_cap_s": [1, 1, 1, 1],
        },
    )

    found = summarise(samples, 0, 3 * S)

    assert found.throttle_bits == 0x40
    assert found.throttled_s == {"hw_thermal": pytest.approx(0.02), "power_cap": 0}


def test_throttling_outside_the_window_is_not_its_fault():
    """Bits and counters are looked at inside the window only."""
    samples = _samples(
        [0, 1, 2, 3],
        {"gpu_throttle_reasons": [0x40, 0x4, 0x1, 0x8], "gpu_throttled_hw_thermal_s": [0, 1, 1, 1]},
    )

    assert summarise(samples, 1 * S, 2 * S).throttle_bits == 0x5


def test_each_poll_of_the_clock_has_the_reasons_since_the_poll_before():
    """A cap between two polls, which only its counter saw, belongs to the later one; what is outside is left out."""
    found = summarise(
        _samples(
            [0, 1, 2, 3, 4],
            {
                "gpu_sm_clock_mhz": [1980, 1700, np.nan, 1500, 345],
                "gpu_throttle_reasons": [0, 0, 4, 0x20, 0],
                "gpu_throttled_power_cap_s": [0, 0.01, 0.01, 0.01, 0.01],
            },
        ),
        0,
        3 * S,
    )

    assert found.clock.mhz.tolist() == [1980, 1700, 1500]
    assert found.clock.reasons.tolist() == [0, 0x4, 0x20]


def test_xids_and_reasons_for_absence_come_along():
    """XIDs (and no other event) and the reasons why values are absent reach the summary."""
    samples = _samples([0], {}, events=[[5, 8, 31], [6, 2, 1]], absent={"field 186": "Not Supported"})

    found = summarise(samples, 0, S)

    assert found.xid_errors == (31,)
    assert found.absent == {"field 186": "Not Supported"}


def test_achieved_period_is_measured():
    """The record says how often was really sampled, at the median and at worst."""
    found = summarise(_samples([0, 0.05, 0.10, 0.25, 0.30], {}), 0, S)

    assert found.values == {"telemetry_period_ms": pytest.approx(50), "telemetry_period_max_ms": pytest.approx(150)}


def test_values_of_tenants_are_kept_apart():
    """What belongs to one tenant is under its id, not among the device's values."""
    found = summarise(_samples([0, 1], {"tenant_gpu_memory_mib/a": [1, 3], "gpu_util_pct": [1, 1]}), 0, S)

    assert found.tenants["a"]["tenant_gpu_memory_mib_mean"] == 2
    assert not [name for name in found.values if "tenant" in name]


def test_memory_beside_a_short_window_is_read_when_all_tenants_were_up():
    """No reading of a level in the window: the nearest with every tenant; an average of another time is no stand-in."""
    columns = {
        "tenant_gpu_memory_mib/a": [5, 100, 110, 120],
        "tenant_gpu_memory_mib/b": [np.nan, 200, np.nan, 220],
        "tenant_cpu_util_pct/a": [90, 90, 90, 90],
    }
    samples = _samples([0, 1, 2, 3], columns)

    assert summarise(samples, round(1.7 * S), round(1.8 * S)).tenants == {
        name: {f"tenant_gpu_memory_mib_{statistic}": value for statistic in ("mean", "min", "max")}
        for name, value in {"a": 100, "b": 200}.items()
    }


def test_memory_is_a_level_also_in_the_group_of_averages():
    """A level belongs to the moment it was read at, an average to the time before it."""
    columns = {"tenant_memory_mib/a": [1, 2, 3], "tenant_cpu_util_pct/a": [10, 20, 30]}
    samples = _samples([0, 0.25, 0.5], columns, groups={GPM: list(columns)}, periods_ms={GPM: 250.0})

    found = summarise(samples, round(0.2 * S), round(0.3 * S)).tenants["a"]

    assert found == {f"tenant_memory_mib_{statistic}": 2 for statistic in ("mean", "min", "max")}


@pytest.fixture(name="file")
def _file(tmp_path):
    table = Table({FAST: POLLED, GPM: tuple(GPM_METRICS), RARE: ("gpu_energy_j",)}, rows=2)
    for row in range(9):
        groups = {FAST: [float(row + place) for place in range(len(POLLED))]}
        if row % 4 == 0:
            groups[RARE] = [float(row)]
        table.append(row * 50 * MS, groups)
    path = tmp_path / "odd name=1" / "telemetry.parquet"
    path.parent.mkdir()
    table.write(path, {"periods_ms": {"gpm": 250.0}, "events": [], "absent": {}})
    return path


def test_file_gives_back_what_was_sampled(file):
    """Every row survives the growth of the table and the file; not sampled is NaN, never sampled is no column."""
    found = load(file)

    assert list(found.times_ns) == [row * 50 * MS for row in range(9)]
    assert set(found.columns) == {*POLLED, "gpu_energy_j"}
    assert list(found.columns[POLLED[1]]) == [row + 1.0 for row in range(9)]
    assert np.flatnonzero(~np.isnan(found.columns["gpu_energy_j"])).tolist() == [0, 4, 8]
    assert found.notes["periods_ms"] == {"gpm": 250.0}


def test_file_has_time_first_and_nulls(file):
    """Other readers find monotonic_ns first and nulls where nothing was sampled."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        table = opened.read()

    assert table.column_names[0] == TIME
    assert table.column("gpu_energy_j").null_count == 6
    assert json.loads(table.schema.metadata[METADATA])["events"] == []
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("content", [b"", b"PAR1 truncated", b"monotonic_ns,gpu_util_pct\n1,2\n"])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    """Damage is reported with the path, not as a Parquet traceback."""
    path = tmp_path / "telemetry.parquet"
    path.write_bytes(content)

    with pytest.raises(RecordError, match=r"telemetry\.parquet"):
        read(path, 0, 1)


def test_missing_file_is_refused(tmp_path):
    """No file is a RecordError too."""
    with pytest.raises(RecordError, match="not a telemetry file"):
        read(tmp_path / "none.parquet", 0, 1)


def test_a_recording_replays(file):
    """A fake GPU repeats a recorded file from its first row on: each column with what was sampled last."""
    gpu = FakeGpu(values=replay(load(file), start_ns=100 * S))

    assert gpu.values(100 * S)[POLLED[0]] == 0
    assert gpu.values(100 * S + 119 * MS)[POLLED[0]] == 2
    assert gpu.values(100 * S + 119 * MS)["gpu_energy_j"] == 0
    assert gpu.values(900 * S)["gpu_energy_j"] == 8


def test_every_summary_name_is_in_the_registry():
    """MLflow gets every value of a summary, so the registry must know each name."""
    columns = {name: [1.0, 2.0, 3.0] for name in ALL_COLUMNS}
    found = summarise(_samples([0, 1, 2], columns), 0, 2 * S)

    assert keys.unknown(found.values) == []


def test_utilisation_of_processes_is_that_of_the_window():
    """The poll after it tells of its end; one without a process counts as 0 for it; nothing asked is not 0."""
    polls = [[0, [[7, 90]]], [2 * S, [[7, 10], [8, 40]]], [3 * S, [[8, 60]]], [6 * S, [[7, 90]]]]

    found = summarise(_samples([0, 6], {}, process_util=polls), 1 * S, 25 * S // 10)

    assert found.process_util_pct == {7: 5, 8: 50}
    assert summarise(_samples([0, 6], {}), 1 * S, 2 * S).process_util_pct is None
