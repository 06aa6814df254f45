import contextlib
import lzma
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtexp.errors import ProfilerError, ProfilerUnusable, RecordError
from mtexp.profiling import ncu
from mtexp.profiling.cost_model import device_peaks
from mtexp.profiling.ncu import (
    DRAM,
    FLOP_FACTORS,
    HOPPER_TENSOR,
    METRICS,
    READ,
    SM,
    TIME,
    WRITTEN,
    CountedKernel,
    choose_metrics,
    find_ncu,
    read_raw_csv,
)
from mtexp.profiling.ncu_roofline import kernel_rows, roofline_row
from mtexp.profiling.result import write_rooflines
from mtexp.spec import ModelSpec, TenantSpec

DATA = Path(__file__).parents[1] / "data" / "nsys"
TENSOR = "sm__ops_path_tensor_op_hgmma_src_fp16_sparsity_off.sum"
FFMA = "sm__sass_thread_inst_executed_op_ffma_pred_on.sum"
NVTX = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
CSV = f"""==PROF== Connected to process 1
"ID","{NVTX}","Kernel Name","CC","{READ}","{WRITTEN}","{TIME}","{FFMA}","{TENSOR}"
"","","","","byte","byte","nsecond","inst",""
"0","7 ""<default domain>:mtexp_ncu_layer:none:none:none:none:none:none"" ","void gemm<8, 4>(T *)","9.0","600,000,000",\
"100,000,000","1,000,000","0","180,000,000,000"
"1","7 ""<default domain>:mtexp_ncu_head:none:none:none:none:none:none"" ","softmax","9.0","1,000","n/a","1000","500",""
"""
BERT = ModelSpec(
    name="bert_base",
    role="encoder",
    architecture="bert",
    shape={
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 30522,
    },
    layer_parameters=12 * (4 * 768 * 768 + 2 * 768 * 3072),
)
TENANT = TenantSpec(id="t", model=BERT)
STRESSOR = ModelSpec(name="stress_sm", role="stressor", architecture="sm")


def kernel(time_ns=1e6, read=6e8, tensor: float | None = 1.8e11, part="request", **more):
    counters = {TIME: time_ns, READ: read, WRITTEN: 0.0, **more}
    if tensor is not None:
        counters[TENSOR] = tensor
    return CountedKernel("k", counters, part)


def row(kernels, tenant="t", model=BERT, **more):
    spec = TenantSpec(id=tenant, model=model)
    return roofline_row(kernels, spec, **{"kernel_limit": 200, "peaks": device_peaks("NVIDIA H200"), **more})


def script(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_command_is_pinned():
    """One request's kernels, clocks as in the timed run, Hopper's counters where the device's are not known."""
    out = Path("/runs/1/50%/bert")
    metrics = choose_metrics((), "fp16")
    command = ncu.profile_command(
        Path("/usr/bin/ncu"), ["python", "-m", "entry", "job.json"], out, kernels=200, metrics=metrics
    )
    imported = ncu.import_command(Path("/usr/bin/ncu"), ncu.report_path(out))
    assert "\n\n".join("\n".join(c) for c in (command, imported)) + "\n" == (DATA / "ncu-argv.txt").read_text()


def test_only_counters_that_the_device_has_are_asked_for():
    """ncu refuses a run for one unknown name."""
    available = {"gpu__time_duration", "dram__bytes_read", "sm__sass_thread_inst_executed_op_ffma_pred_on"}
    chosen = choose_metrics(available, "fp16")
    assert set(chosen) == {TIME, READ, FFMA}


def test_tensor_counters_are_leaves_so_that_nothing_counts_twice():
    """By instruction before by type, parts before sums, and of the precision only."""
    by_type = {
        "sm__ops_path_tensor_src_fp16",
        "sm__ops_path_tensor_src_fp16_dst_fp32",
        "sm__ops_path_tensor_src_fp16_dst_fp16",
    }
    assert set(choose_metrics(by_type, "fp16")) - set(METRICS) == {
        "sm__ops_path_tensor_src_fp16_dst_fp32.sum",
        "sm__ops_path_tensor_src_fp16_dst_fp16.sum",
    }
    hopper = {name.removesuffix(".sum") for name in HOPPER_TENSOR}
    sums = {"sm__ops_path_tensor_op_hmma_src_fp16_sparsity_off", "sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32"}
    for precision, source in (("fp16", "fp16"), ("bf16", "bf16"), ("tf32", "tf32"), ("fp32", "tf32")):
        chosen = set(choose_metrics(hopper | sums | by_type, precision)) - set(METRICS)
        assert chosen == {name for name in HOPPER_TENSOR if f"_src_{source}_" in name}
        assert len(chosen) == (3 if precision == "fp16" else 2)


def test_the_raw_table_is_read_in_base_units(tmp_path):
    """Thousands separators, n/a, a line of units, the tool's own chatter."""
    path = tmp_path / "raw.csv"
    path.write_text(CSV)
    first, second = read_raw_csv(path)
    assert first.name == "void gemm<8, 4>(T *)"
    assert first.counters["dram__bytes_read.sum"] == 6e8
    assert first.counters[TENSOR] == 1.8e11
    assert "dram__bytes_write.sum" not in second.counters
    assert TENSOR not in second.counters
    assert (first.part, second.part) == ("layer", "head")


def test_a_layer_counts_as_often_as_the_model_has_it(tmp_path):
    """Profiled is one layer and the head; the row is of a request of twelve layers."""
    path = tmp_path / "raw.csv"
    path.write_text(CSV)
    result = row(read_raw_csv(path))
    assert (result.profiled, result.layers, result.kernels) == ("layer", 12, 2)
    assert result.flops == 12 * 1.8e11 + 2 * 500
    assert result.bytes == 12 * 7e8 + 1000
    assert result.time_ms == pytest.approx(12.001)
    assert row([kernel()]).profiled == "request"
    untold = row([kernel(part="")])
    assert (untold.profiled, untold.complete, untold.intensity) == ("kernels", False, 300)
    assert row([kernel()]).flops == 1.8e11


def test_a_table_of_an_h200_gives_the_flops_that_the_shapes_give(tmp_path):
    """What ncu 2025.3.1 wrote of BERT-base (fp16, batch 8, 128 tokens): one layer of twelve, counted on the device."""
    path = tmp_path / "raw.csv"
    path.write_bytes(lzma.decompress((DATA / "ncu-bert-h200.csv.xz").read_bytes()))
    result = row(read_raw_csv(path), launch_bound_pct=73.0)
    assert (result.profiled, result.layers, result.kernels, result.flops_source) == ("layer", 12, 12, "counters")
    assert result.flops == pytest.approx(result.formula_flops, rel=0.02)
    assert result.intensity == pytest.approx(307, abs=1)
    assert (result.bound, result.kernels_bound) == ("launch", "latency")


@pytest.mark.parametrize("content", ["", "hello", '"ID","Kernel Name"\n', '"ID","Kernel Name"\n"",""\n'])
def test_a_table_without_kernels_is_an_error(tmp_path, content):
    """Nothing is computed from nothing."""
    path = tmp_path / "raw.csv"
    path.write_text(content)
    with pytest.raises(RecordError, match="kernels"):
        read_raw_csv(path)


@given(st.text(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_gives_kernels_or_an_error(tmp_path, text):
    """Whatever stands behind the header."""
    path = tmp_path / "raw.csv"
    path.write_text(CSV + text, errors="replace")
    with contextlib.suppress(RecordError):
        row(read_raw_csv(path))


def test_a_row_places_a_model_under_the_roof():
    """180 GFLOP and 600 MB in 1 ms on an H200."""
    result = row([kernel()])
    assert (result.flops_per_s, result.bytes_per_s, result.intensity) == (1.8e14, 6e11, 300)
    assert result.compute_peak_pct == pytest.approx(100 * 180 / 989.4)
    assert result.memory_peak_pct == pytest.approx(12.5)
    assert (result.bound, result.flops_source, result.complete) == ("compute", "counters", True)
    assert row([kernel(read=1e9)]).bound == "memory"
    assert row([kernel()], launch_bound_pct=70.0).bound == "launch"


def test_every_scalar_instruction_counts_its_operations():
    """A multiply-add is two; half precision works on pairs."""
    counters = dict.fromkeys(FLOP_FACTORS, 1.0)
    assert row([kernel(tensor=0.0, **counters)]).flops == 1 + 1 + 2 + 2 + 2 + 4


def test_without_tensor_counters_the_formula_stands_in_only_for_a_whole_request():
    """A part of a request has not the FLOPs of the whole: unknown then, and nothing that follows from it."""
    whole = row([kernel(tensor=None)])
    assert (whole.flops, whole.flops_source) == (whole.formula_flops, "formula")
    assert whole.flops == pytest.approx(1.79e11, rel=0.01)
    stressor = row([kernel(tensor=None)], model=STRESSOR)
    assert (stressor.flops, stressor.layers) == (None, 1)
    part = row([kernel(tensor=None)], kernel_limit=1)
    assert (part.flops, part.flops_source, part.intensity, part.bound) == (None, "", None, None)
    assert "roofline_tflop_per_s" not in part.metrics()
    assert part.metrics()["roofline_gb_per_s"] == 600


def test_time_is_attributed_to_what_kernels_saturate():
    """At 60 % of a peak a kernel is bound by it; below both it is bound by neither."""
    kernels = [
        kernel(time_ns=2e6, **{SM: 80.0, DRAM: 61.0}),
        kernel(time_ns=1e6, **{SM: 20.0, DRAM: 90.0}),
        kernel(time_ns=1e6, **{SM: 30.0, DRAM: 30.0}),
    ]
    result = row(kernels)
    shares = (result.compute_bound_time_pct, result.memory_bound_time_pct, result.latency_bound_time_pct)
    assert shares == (50, 25, 25)
    assert result.kernels_bound == "compute"
    assert row(kernels[1:]).kernels_bound == "memory"
    assert row([*kernels, kernel(time_ns=1e6)]).kernels_bound == "mixed"
    table = kernel_rows(TENANT, kernels)
    assert {(k["tenant"], k["model"]) for k in table} == {("t", "bert_base")}
    assert [(k["bound"], k["sm_pct"], k["intensity"]) for k in table] == [
        ("compute", 80, 300),
        ("memory", 20, 300),
        ("latency", 30, 300),
    ]


def test_a_sentence_says_what_binds_a_model():
    """Launches, kernels, the side of the ridge and how near the peaks are: none hides another."""
    text = row([kernel(**{SM: 20.0, DRAM: 90.0})], launch_bound_pct=72.4).sentence()
    assert text == (
        "bert_base: alone, the GPU waits for launches 72 % of a request: launch-bound; of its kernels' time 0 % is "
        "compute-bound, 100 % memory-bound, 0 % neither (both below 60 % of the peak); 300 FLOP/byte against a ridge "
        "of 206: the compute side of the roofline; it reaches 18 % of the peak arithmetic and 12 % of the peak "
        "bandwidth."
    )
    unknown = row([kernel(tensor=None)], model=STRESSOR, peaks=None).sentence()
    assert unknown.startswith("stress_sm: of its kernels' time 0 %")
    assert "ridge" not in unknown


def test_ncu_missing_says_what_to_do(tmp_path):
    """NCU, the PATH, installations; then the remedy."""
    with pytest.raises(ProfilerError, match=r"no ncu on the PATH.*profiler=torch"):
        find_ncu({"PATH": str(tmp_path)}, [tmp_path])
    path = tmp_path / "nsight-compute" / "2025.3.1" / "ncu"
    path.parent.mkdir(parents=True)
    script(path, "true")
    assert find_ncu({"PATH": ""}, [tmp_path]) == path
    assert find_ncu({"NCU": str(path)}, ()) == path
    with pytest.raises(ProfilerError, match=r"NCU=/x/ncu is not a program"):
        find_ncu({"NCU": "/x/ncu"}, [tmp_path])


def test_available_counters_are_asked_of_the_tool(tmp_path):
    """Plain text and CSV spelling; a tool that fails knows none."""
    tool = script(
        tmp_path / "ncu",
        'echo "Device NVIDIA H200 (GH100)"; echo "dram__bytes_read   # of bytes"; echo \'"sm__a_b","x"\'',
    )
    assert ncu.query_metrics(tool, log=tmp_path / "log") == {"dram__bytes_read", "sm__a_b"}
    assert ncu.query_metrics(script(tool, "echo dram__bytes_read; exit 1"), log=tmp_path / "log") == frozenset()


def test_a_profile_returns_kernels_or_the_reason(tmp_path):
    """Permission, nothing in the range, and the good case, with a stand-in for ncu."""
    out = tmp_path / "bert"
    (tmp_path / "raw.csv").write_text(CSV)
    body = f'case "$1" in --import*) cat {tmp_path}/raw.csv;; *) touch {ncu.report_path(out)};; esac'
    tool = script(tmp_path / "ncu", body)
    report, kernels = ncu.profile(tool, [str(tool), "x"], out, timeout_s=20)
    assert report == ncu.report_path(out)
    assert len(kernels) == 2
    report.unlink()
    with pytest.raises(ProfilerError, match="no kernel ran in its NVTX range") as alone:
        ncu.profile(tool, ["/bin/true"], out, timeout_s=20)
    assert not isinstance(alone.value, ProfilerUnusable)  # another model may have kernels
    sandboxed = ["/bin/sh", "-c", "echo '==ERROR== Failed to initialize the profiler: LibraryNotLoaded'; exit 1"]
    with pytest.raises(ProfilerUnusable, match=r"cannot reach the driver's counters.*profiler=torch"):
        ncu.profile(tool, sandboxed, out, timeout_s=20)
    refused = ["/bin/sh", "-c", "echo '==ERROR== ERR_NVGPUCTRPERM - no permission'; exit 9"]
    with pytest.raises(ProfilerUnusable, match=r"performance counters \(ERR_NVGPUCTRPERM\)"):
        ncu.profile(tool, refused, out, timeout_s=20)


def test_rows_become_a_table_and_a_plot(tmp_path):
    """On a device that is not in the table of peaks the measured figures stand, without a roof."""
    rows = [row([kernel()]), row([kernel()], tenant="u", kernel_limit=1)]
    table = kernel_rows(TENANT, [kernel()])
    result = write_rooflines(rows, device_peaks("NVIDIA H200"), tmp_path, table)
    kinds = ["roofline.parquet", "roofline.csv", "roofline-kernels.parquet", "roofline-kernels.csv"]
    assert [p.name for p in result.artifacts] == [*kinds, "roofline-fp16.html"]
    assert result.tenants["t"]["roofline_tflop_per_s"] == 180
    found = [(f.code, f.tenant) for f in result.findings]
    assert found == [("roofline", "t"), ("roofline", "u"), ("ncu-incomplete", "u")]
    assert result.findings[0].message == rows[0].sentence()
    assert all(finding.message.startswith("bert_base: ") for finding in result.findings)
    unknown = write_rooflines([row([kernel()], peaks=None)], None, tmp_path)
    assert [f.code for f in unknown.findings] == ["roofline", "no-peaks"]
    assert unknown.tenants["t"]["roofline_gb_per_s"] == 600
    assert "compute_peak_pct" not in unknown.tenants["t"]
