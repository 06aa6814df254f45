"""The passes as the runner makes them, on the CPU: a stand-in profiler around a real session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtexp import profile_pass
from mtexp.errors import ProfilerError
from mtexp.evaluation import Origin
from mtexp.host import Device
from mtexp.profile_session import Session
from mtexp.profiling import ncu
from mtexp.spec import DeadlineSpec, MeasureSpec, ProfilerSpec, RunSpec, TelemetrySpec
from mtexp.testing.records import example
from mtexp.tracking import record as records
from mtexp.tracking.mlflow_writer import artifacts
from tests.tenant.tenant_specs import tenant

pytestmark = pytest.mark.process

DEVICE = Device("cpu", 0, "cpu", "NVIDIA H200", 1024, None)
NCU = """#!/bin/sh
case "$1" in
  --query-metrics) exec printf '%s\\n' {names} ;;
  --import=*) exec cat {table} ;;
esac
while [ "$1" != -- ]; do
  case "$1" in
    --export=*) out="${{1#--export=}}" ;;
    {python}) break ;;
  esac
  shift
done
case "$out" in *{broken}*) echo '==ERROR== ERR_NVGPUCTRPERM'; exit 9 ;; esac
touch "$out.ncu-rep"
exec "$@"
"""
NVTX = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
TENSOR = "sm__ops_path_tensor_op_hgmma_src_tf32_dst_fp32_sparsity_off.sum"
TABLE = f"""==PROF== done
"ID","{NVTX}","Kernel Name","{ncu.TIME}","{ncu.READ}","{ncu.WRITTEN}","{ncu.SM}","{ncu.DRAM}","{TENSOR}"
"","","","ns","byte","byte","%","%",""
"0","1 ""<default domain>:mtexp_ncu_layer:none"" ","gemm","2,000","1,000","1,000","80","10","1,000,000"
"1","1 ""<default domain>:mtexp_ncu_layer:none"" ","norm","1,000","4,000","4,000","10","70","0"
"""


def spec_of(**more) -> RunSpec:
    """Two models that take milliseconds."""
    given = {
        "mix": "pair",
        "tenants": (replace(tenant("bert_base"), id="b"), replace(tenant("distilgpt2"), id="d")),
        "measure": MeasureSpec(iterations=5, warmup=1),
        "telemetry": TelemetrySpec(enabled=False),
        "profiler": ProfilerSpec(kind="ncu"),
        "deadlines": DeadlineSpec(),
    }
    return RunSpec(**{**given, **more})


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str = "nothing") -> None:
    """A stand-in for ncu that runs what it is given and has a table ready."""
    table, tool = folder / "raw.csv", folder / "ncu"
    table.write_text(TABLE)
    names = " ".join(name.split(".")[0] for name in (*ncu.METRICS, TENSOR))
    tool.write_text(NCU.format(names=names, table=table, broken=broken, python=sys.executable))
    tool.chmod(0o755)
    monkeypatch.setenv("NCU", str(tool))


def ncu_pass(spec: RunSpec, out: Path) -> records.RunRecord:
    """The pass on a CPU, which the runner refuses."""
    out.mkdir()
    timed, _ = example(("bert_base", "distilgpt2"))
    metrics = {"launch_bound_pct": 72.0, "latency_mean_ms": 1.0}
    timed = replace(timed, tenants=tuple(replace(t, metrics=metrics) for t in timed.tenants))
    return records.load(profile_pass._with_ncu(spec, DEVICE, timed, out, Origin()))


def test_ncu_gives_a_row_a_model(tmp_path, monkeypatch):
    """One record, linked to the timed run, with the rows, their plot and a sentence; and nothing called a latency."""
    install(tmp_path, monkeypatch)
    record = ncu_pass(spec_of(kind="profile"), tmp_path / "out")
    timed, _ = example(("bert_base", "distilgpt2"))
    assert (record.kind, record.profile_of, record.verdict) == ("profile", timed.record_id, "VALID")
    assert [t.id for t in record.tenants] == ["b", "d"]
    for found in record.tenants:
        assert found.metrics["compute_bound_time_pct"] == pytest.approx(200 / 3)
        assert found.metrics["launch_bound_pct"] == 72.0
        assert not any("latency_mean" in key or "slowdown" in key for key in found.metrics)
    sentences = [f.message for f in record.findings if f.code == "roofline"]
    assert [text.partition(":")[0] for text in sentences] == ["bert_base", "distilgpt2"]
    rows = pq.read_table(tmp_path / "out" / "roofline.parquet").to_pylist()
    layers = [tenant("bert_base").model.shape["num_hidden_layers"], tenant("distilgpt2").model.shape["n_layer"]]
    assert [row["layers"] for row in rows] == layers
    assert [row["flops"] for row in rows] == [1e6 * count for count in layers]
    sent = {path.name for path, _ in artifacts(tmp_path / "out")}
    assert {"bert_base.ncu-rep", "distilgpt2.ncu-rep", "roofline.parquet", "roofline-kernels.csv"} <= sent


def test_a_model_that_ncu_cannot_profile_does_not_cost_the_others(tmp_path, monkeypatch):
    """Its reason is a warning of the pass; where the first one fails, ncu does not work here, and the pass ends."""
    install(tmp_path, monkeypatch, broken="/distilgpt2")
    record = ncu_pass(spec_of(kind="profile"), tmp_path / "out")
    assert [t.id for t in record.tenants] == ["b"]
    (failed,) = (f for f in record.findings if f.code == "ncu-failed")
    assert failed.message.startswith("distilgpt2 was not profiled")
    assert "ERR_NVGPUCTRPERM" in failed.message
    install(tmp_path, monkeypatch, broken="/")
    with pytest.raises(ProfilerError, match="ERR_NVGPUCTRPERM"):
        ncu_pass(spec_of(kind="profile"), tmp_path / "again")
    assert not (tmp_path / "again" / "distilgpt2").exists()


def test_a_pass_without_kernels_leaves_the_timed_run_alone(tmp_path, monkeypatch):
    """Whatever is wrong with what a profiler left is the pass's failure, and the runner goes on."""
    timed, _ = example(("bert_base", "distilgpt2"))
    spec = spec_of(profiler=ProfilerSpec(kind="torch"))
    with pytest.raises(ProfilerError, match="has no GPU kernels"):
        list(profile_pass.profile(spec, DEVICE, timed, tmp_path, Origin(), lambda text: None))


def test_a_session_ends_with_the_run_that_it_belongs_to(tmp_path):
    """Also when that was killed: a profiler stands between the two, and would trace on for minutes."""
    with subprocess.Popen(["sleep", "60"]) as owner:
        spec = spec_of(measure=MeasureSpec(iterations=10**6, warmup=1), kind="profile")
        session = replace(Session.of(spec, DEVICE, tmp_path, Origin()), owner=owner.pid)
        path = tmp_path / "session.json"
        path.write_text(json.dumps(asdict(session)))
        argv = [sys.executable, "-m", "mtexp.profile_session", str(path)]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
            while not list(tmp_path.glob("*.bin")) and running.poll() is None:
                os.sched_yield()
            owner.send_signal(signal.SIGKILL)
            said = running.communicate(timeout=60)[1]
    assert running.returncode == 1
    assert "interrupted" in said
