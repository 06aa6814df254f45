"""A mix in open loop with real tenants: measured, tracked and shown beside the tenant alone at the same arrivals."""

from __future__ import annotations

import pytest

from analysis import fetch, tables
from analysis.data import load
from analysis.pooling import pool
from mtexp.records.samples_file import read_samples
from tests.run.run_helpers import Workplace

MIX = (
    *("mix=bert_base+distilgpt2", "arrival=poisson", "arrival.rate=20", "mix.tenants.distilgpt2.arrival.kind=closed"),
    *("measure.iterations=12", "sweep=s"),
)


def test_latency_alone_at_the_same_arrivals_is_measured_and_shown(workplace: Workplace) -> None:
    """The baseline gets the very instants of the mix; terminal, record, MLflow, fetch and tables have the figures."""
    ran = workplace.run(*MIX)
    assert ran.code == 0, ran.err
    heading = next(line for line in ran.out.splitlines() if line.startswith("tenant"))
    assert "latency slowdown" in heading
    assert "p50 alone" in heading

    records = workplace.records("outputs/s")
    record = records.pop(".")
    tenant = record.tenants[0]
    assert tenant.arrivals_baseline is not None
    assert tenant.baseline is not None
    (at_arrivals,) = [place for place, r in records.items() if r.record_id == tenant.arrivals_baseline.record_id]
    first, alone = (
        read_samples(workplace.folder / "outputs/s" / place / "iterations.parquet")["bert_base"].measured.arrival_ns
        for place in (".", at_arrivals)
    )
    both = min(len(first), len(alone))
    assert both >= 12
    assert (first[:both] - first[0] == alone[:both] - alone[0]).all()
    metrics = tenant.metrics
    assert metrics["latency_slowdown"] > 0
    assert metrics["alone_latency_mean_ms"] != tenant.baseline.latency_mean_ms
    assert not [name for name in metrics if name.startswith("slowdown")]
    assert "latency_slowdown" not in record.tenants[1].metrics

    frame = fetch.tenants("tags.mtexp.kind = 'mix'").set_index("tenant")
    assert frame.loc["bert_base", "latency_slowdown"] == pytest.approx(metrics["latency_slowdown"])
    assert frame.loc["bert_base", "arrivals_baseline_record_id"] == tenant.arrivals_baseline.record_id
    results = pool(load(records=workplace.folder / "outputs/s", include_invalid=True), draws=50)
    (row,) = tables.load_curve(results).to_dict("records")
    assert row["alone_latency_p50_ms"] == pytest.approx(metrics["alone_latency_p50_ms"])
    assert tables.baselines(results)["model"].tolist().count("bert_base") == 1
