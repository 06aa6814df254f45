"""Runs with servers: beside a model in turns, alone as a baseline, in open loop; what fails is one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mtexp.launch.server_guardian import MARK
from mtexp.metrics.samples import MEASURE, Samples
from mtexp.records.samples_file import read_samples
from mtexp.running.servers import server_findings
from mtexp.served import ServerSpec
from mtexp.spec import ModelSpec, RunSpec, TenantSpec
from tests.run.run_helpers import Workplace

pytestmark = pytest.mark.process

TOY = """
name: toy
server:
  command: "{{python}} -m mtexp.testing.toy_server --port {{port}} --ms 2 {more}"
  ready: /health
  request: {{url: /work, json: {{text: "{{text}}"}}}}
"""
LLM = """
name: llm
server:
  command: "{python} -m mtexp.testing.toy_server --port {port} --ms 1"
  ready: listens on
  request: {api: completions}
  concurrency: 2
"""


def models(folder: Path, more: str = "") -> None:
    (folder / "conf" / "models").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "models" / "toy.yaml").write_text(TOY.format(more=more))
    (folder / "conf" / "models" / "llm.yaml").write_text(LLM)


def no_server_left(folder: Path) -> bool:
    """No process of a server that was started in ``folder``."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}=".encode() in (place / "environ").read_bytes():
                found.append((place / "cwd").resolve() == folder.resolve())
        except OSError:
            continue
    return not any(found)


def test_servers_and_a_model_take_turns_and_have_baselines(workplace: Workplace) -> None:
    """Started in the order asked for, which is in the record; a slowdown for each, tokens; nothing left."""
    models(workplace.folder)
    ran = workplace.run(
        *("--config-dir=conf", "mix=toy+llm+bert_base", "measure.design=crossover", "measure.max_time_s=1"),
        *("mix.start_order=[llm,toy]", "measure.iterations=12", "workload.new_tokens=3"),
    )
    assert ran.code == 0, ran.out + ran.err
    starts = [text for text in workplace.phases if text.startswith("starting the server")]
    assert starts == ["starting the server of llm", "starting the server of toy"]
    (record,) = workplace.records().values()
    assert record.status == "FINISHED"
    assert record.sharing["proven"]
    tenants = {tenant.id: tenant for tenant in record.tenants}
    assert all("slowdown" in tenant.metrics for tenant in tenants.values())
    assert tenants["llm"].metrics["ttft_mean_ms"] > 0
    assert tenants["llm"].metrics["tpot_mean_ms"] > 0
    assert tenants["toy"].facts_after["server_position"] == 1
    assert tenants["toy"].facts_before["server_pids"]
    assert tenants["toy"].facts_after["client_late_mean_ms"] >= 0
    assert not {f.level for f in record.findings if f.code not in ("client-lag", "overlap")} & {"invalid"}
    assert record.run_spec.start_order == ("llm", "toy")
    assert no_server_left(workplace.folder)
    (place,) = workplace.records()
    samples = read_samples(workplace.folder / place / "iterations.parquet")
    assert (samples["toy"].phase == MEASURE).sum() >= 12


def test_a_server_in_open_loop_is_compared_with_its_baseline(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline is the server alone in closed loop; a load is a share of its throughput.

    Its requests take 20 ms, and the client may be as late as it is: on a busy host the baseline would not be VALID.
    """
    monkeypatch.setattr("mtexp.running.servers.LAG_MS", 1e3)
    models(workplace.folder, "--ms 20")
    ran = workplace.run("--config-dir=conf", "mix=toy", "arrival=poisson", "arrival.load=0.4")
    assert ran.code == 0, ran.out + ran.err
    records = {record.kind: record for record in workplace.records().values()}
    assert records.keys() == {"mix", "baseline"}
    tenant = records["mix"].tenants[0]
    assert tenant.metrics["service_slowdown"] > 0
    assert 10 < records["mix"].run_spec.tenants[0].arrival.rate_rps < 30
    assert no_server_left(workplace.folder)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("--fault error --after 9", "failed in measure: its server answered 500: "),
        ("--fault die --after 9", r"failed in measure: its server ended \(exit code 3\)"),
        ("--fault hang --after 9", "its server did not answer a request within 1.6 s"),
        ("--ready-after 99", "failed in start: its server was not ready within 1 s .*answered 503"),
    ],
)
def test_a_server_that_fails_is_one_line_and_leaves_nothing(workplace: Workplace, more: str, why: str) -> None:
    """With the end of the server's own log, not the client's traceback."""
    models(workplace.folder, more)
    ran = workplace.run(
        *("--config-dir=conf", "mix=toy", "baseline=skip", "deadlines.stall_s=2"),
        *("mix.tenants.toy.server.ready_s=1",) if "ready" in more else (),
    )
    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if line.startswith("FAILED: tenant toy")]
    assert re.search(why, line), line
    assert "toy.server.log" in line
    assert "Traceback" not in ran.out + ran.err
    assert no_server_left(workplace.folder)


def lagging(
    late_ms: float, wait_ms: float, busy_pct: float, concurrency: int = 1, latency_ms: float = 10.0
) -> list[str]:

    server = ServerSpec(command=("x",), url="http://127.0.0.1/x", concurrency=concurrency)
    model = ModelSpec(name="m", role="server", architecture="x", server=server)
    spec = RunSpec(mix="m", tenants=(TenantSpec(id="m", model=model),))
    start = np.arange(20) * int(latency_ms * 1e6)
    samples = Samples(
        phase=np.ones(20, dtype=np.uint8),
        arrival_ns=start,
        start_ns=start,
        end_ns=start + int(latency_ms * 1e6),
        first_token_ns=np.zeros(20, dtype=np.int64),
        gpu_time_ns=np.full(20, -1),
    )
    facts = {"client_late_mean_ms": late_ms, "client_wait_ms": wait_ms, "client_busy_pct": busy_pct}
    return [finding.code for finding in server_findings(spec, {"m": samples}, {"m": facts})]


def test_a_client_that_lags_makes_a_run_invalid() -> None:
    """More than 5 % of the latency and 0.2 ms; or busy all the time with several in flight."""
    assert lagging(0.1, 0.1, 50) == []
    assert lagging(0.5, 0.2, 50) == ["client-lag"]
    assert lagging(0.5, 0.2, 50, latency_ms=100) == []
    assert lagging(0.1, 0.05, 50, latency_ms=1) == []
    assert lagging(0.0, 0.0, 95) == []
    assert lagging(0.0, 0.0, 95, concurrency=4) == ["client-lag"]
