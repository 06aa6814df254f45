import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtexp.errors import RecordError
from mtexp.profiling import torch_trace
from mtexp.profiling.overlap import measure_overlap
from mtexp.profiling.result import collect_torch
from mtexp.profiling.torch_trace import early_kernels, merge_traces, read_trace, trace_kernels


def kernel(ts, dur, correlation=0, name="gemm", stream=7):
    args = {"correlation": correlation, "stream": stream}
    return {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": stream, "ts": ts, "dur": dur, "args": args}


def launch(ts, correlation=0, pid=41):
    args = {"correlation": correlation}
    return {
        "ph": "X",
        "cat": "cuda_runtime",
        "name": "cudaLaunchKernel",
        "pid": pid,
        "tid": pid,
        "ts": ts,
        "dur": 2,
        "args": args,
    }


def write(path, base_ns, events):
    path.write_text(json.dumps({"baseTimeNanoseconds": base_ns, "traceEvents": events}))
    return path


@pytest.fixture
def pair(tmp_path):
    """Two tenants whose traces start 1 ms apart: a runs 100-300 us, b 50-150 us by their own clocks."""
    base = 1_700_000_000_000_000_000
    events = [launch(90), kernel(100, 200), {"ph": "M", "name": "process_name", "pid": 0}]
    a = write(tmp_path / "a.json", base, events)
    b = write(tmp_path / "b.json", base - 1_000_000, [launch(1080, pid=42), kernel(1050, 100)])
    return {"a": a, "b": b}


def test_two_traces_come_onto_one_clock(pair):
    """The base differs between processes: it is added before anything is compared."""
    traces = [read_trace(path, tenant) for tenant, path in pair.items()]
    kernels = trace_kernels(traces)
    assert [(t.pid, t.name) for t in kernels.tenants] == [(41, "a"), (42, "b")]
    assert kernels.start_ns.tolist() == [1_050_000, 1_100_000]
    overlap = measure_overlap(kernels)
    assert overlap.concurrent_ms == {"0": 0.0, "1": 0.0, "2": 0.05}
    assert overlap.window_ms == 0.05


def test_the_merged_trace_has_a_process_per_tenant(pair):
    """Perfetto shows tenants by name; stamps are shifted; flow ids of two processes do not meet."""
    traces = [read_trace(path, tenant) for tenant, path in pair.items()]
    merged = merge_traces(traces)
    names = {e["pid"]: e["args"]["name"] for e in merged["traceEvents"] if e["name"] == "process_name"}
    assert names == {1: "tenant a", 2: "tenant b"}
    gemms = {e["pid"]: e["ts"] for e in merged["traceEvents"] if e["name"] == "gemm"}
    assert gemms == {1: 1100.0, 2: 1050.0}
    lanes = {e["args"]["name"] for e in merged["traceEvents"] if e["name"] == "thread_name"}
    assert {"GPU stream 7", "thread 41", "thread 42"} == lanes
    assert "microsecond" in merged["mtexp"]


def test_a_kernel_before_its_launch_shows_the_clock_error(pair):
    """The only check of the clock that a trace offers."""
    assert early_kernels(read_trace(pair["a"], "a")) == (0, 0.0)
    assert early_kernels(read_trace(pair["b"], "b")) == (1, 30.0)


def test_the_torch_pass_leaves_trace_tables_and_findings(pair, tmp_path):
    """Merged trace, overlap, kernel table, lanes; the precision is stated, the bad clock named with its tenant."""
    folder = tmp_path / "out"
    folder.mkdir()
    result = collect_torch(pair, folder, time_slicing=True)
    names = {p.name for p in result.artifacts}
    assert names == {"trace.json", "overlap.json", "kernels.parquet", "kernels.csv", "lanes.html"}
    assert result.metrics == {"kernel_overlap_pct": 100.0, "gpu_idle_pct": 0.0}
    assert result.tenants["b"]["busy_ms"] == 0.1
    codes = {(f.code, f.tenant) for f in result.findings}
    assert codes == {("overlap-not-concurrency", ""), ("trace-precision", ""), ("trace-clock", "b")}
    assert any("kernels of b seem to start" in finding.message for finding in result.findings)


def test_on_the_cpu_the_merged_trace_is_all(tmp_path):
    """Operators on one clock, a note that there is no overlap table; a trace without operators is none."""
    operator = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 41, "tid": 41, "ts": 3, "dur": 2}
    made = {tenant: write(tmp_path / f"{tenant}.json", base, [operator]) for tenant, base in (("a", 5000), ("b", 6000))}
    result = collect_torch(made, tmp_path, time_slicing=False, on_gpu=False)
    assert [p.name for p in result.artifacts] == ["trace.json"]
    assert (result.metrics, result.tenants) == ({}, {})
    assert [(f.level, f.code) for f in result.findings] == [("note", "cpu-trace")]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {e["pid"]: e["ts"] for e in events if e["name"] == "aten::mm"} == {1: 3.0, 2: 4.0}
    empty = write(tmp_path / "c.json", 5, [launch(1)])
    with pytest.raises(RecordError, match="tenant c has no operators"):
        collect_torch({"c": empty}, tmp_path, time_slicing=False, on_gpu=False)


def test_a_trace_of_a_gpu_without_kernels_says_so(tmp_path):
    """CUDA was not traced."""
    trace = read_trace(write(tmp_path / "t.json", 5, [launch(1)]), "a")
    with pytest.raises(RecordError, match="tenant a has no GPU kernels"):
        trace_kernels([trace])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "no list traceEvents"),
        ('{"traceEvents": 3, "baseTimeNanoseconds": 1}', "no list traceEvents"),
        ('{"traceEvents": []}', "baseTimeNanoseconds=None"),
        ('{"traceEvents": [], "baseTimeNanoseconds": 1e300}', "baseTimeNanoseconds=1e"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path, content, reason):
    """Not JSON, too deep, no events, no common clock."""
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=reason):
        read_trace(path, "a")


def test_a_trace_that_is_too_large_or_absent_is_refused(tmp_path, monkeypatch):
    """Sizes are bounded before anything is read."""
    path = write(tmp_path / "t.json", 5, [kernel(1, 1)])
    monkeypatch.setattr(torch_trace, "MAX_TRACE_BYTES", 10)
    with pytest.raises(RecordError, match="larger than"):
        read_trace(path, "a")
    with pytest.raises(RecordError, match="cannot be read"):
        read_trace(tmp_path / "absent", "a")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
events = st.fixed_dictionaries(
    {
        "ph": st.sampled_from(["X", "s", "M"]) | json_values,
        "cat": st.sampled_from(["kernel", "cuda_runtime"]) | json_values,
    },
    optional={key: json_values | st.integers(0, 50) for key in ("ts", "dur", "pid", "tid", "name", "id", "args")},
)


@given(st.lists(events | json_values, max_size=8), json_values | st.integers(0, 10**18))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_gives_a_result_or_an_error(tmp_path, found, base):
    """Wrong types anywhere in a trace."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"baseTimeNanoseconds": base, "traceEvents": found}))
    try:
        trace = read_trace(path, "a")
        early_kernels(trace)
        json.dumps(merge_traces([trace]))
        measure_overlap(trace_kernels([trace]))
    except RecordError:
        pass
