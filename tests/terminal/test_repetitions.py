"""Repetitions that a sweep's last lines put together."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mtexp.metrics.crossover_summary import BlockTelemetry, real_window, summarise_crossover
from mtexp.metrics.summary import Measured
from mtexp.records.record import save
from mtexp.terminal.repetitions import together
from mtexp.testing.records import example
from tests.analysis.analysis_study import Study
from tests.metrics.test_crossover_summary import run


def _measured(folder: Path, shared_ms: float, verdict: str = "VALID", seed: int = 0) -> str:
    """Save a run in rounds of two tenants that take 2 ms alone; return its id."""
    samples, blocks = run({"t0": 2.0, "t1": 2.0}, {"t0": shared_ms, "t1": shared_ms}, noise=0.05)
    record, _ = example(["bert_base", "gpt2"], mix="pair", seed=seed, verdict=verdict)
    measured = {name: Measured(samples=own) for name, own in samples.items()}
    figures = summarise_crossover(measured, blocks, BlockTelemetry())
    window = real_window(samples)
    assert window is not None
    record = replace(
        record,
        spec={**record.spec, "measure": {**record.spec["measure"], "design": "crossover"}},
        blocks=tuple(blocks),
        window={"t0_ns": window.t0_ns, "t1_ns": window.t1_ns},
        metrics=figures.metrics,
        tenants=tuple(replace(tenant, metrics=figures.tenants[tenant.id]) for tenant in record.tenants),
    )
    folder.mkdir()
    return save(record, folder, samples).record_id


def _row(repetition: int, **own: str) -> dict[str, str]:
    return {"mix": "pair", "batch_size": "4", "tenants": "2", "repetition": str(repetition), "verdict": "VALID"} | own


def test_valid_repetitions_get_one_row_with_an_interval_over_runs(tmp_path: Path) -> None:
    """Two runs of STP 1.33 and 1: the interval holds both; an INVALID run is not put in; what was swept is said."""
    ids = [
        _measured(tmp_path / "0", 3.0, seed=1),
        _measured(tmp_path / "1", 4.0, seed=2),
        _measured(tmp_path / "2", 40.0, "INVALID", seed=3),
    ]
    (found,) = together({name: _row(number) for number, name in enumerate(ids)}, tmp_path)
    assert {key: found[key] for key in ("mix", "batch_size", "runs")} == {"mix": "pair", "batch_size": "4", "runs": "2"}
    assert not {"repetition", "verdict", "tenants"} & set(found)
    value, low, high = (float(part) for part in found["STP"].replace("[", "").replace("]", "").replace(",", "").split())
    assert value == pytest.approx(1.15, abs=0.05)
    assert low < 1.02
    assert high > 1.3


def test_repetitions_of_a_mix_of_one_tenant_have_latency_and_requests(tmp_path: Path) -> None:
    """There is nobody to share with: mean latency and requests/s, with intervals over runs."""
    records = Study(tmp_path, iterations=40).run(["bert_base"], repetitions=2)
    (found,) = together({record.record_id: _row(number) for number, record in enumerate(records)}, tmp_path)
    for label in ("mean ms", "req/s"):
        assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", found[label]), found


def test_a_single_run_or_none_has_no_such_row(tmp_path: Path) -> None:
    """One VALID run of three; no record at all."""
    assert together({}, tmp_path) == []
    ids = [_measured(tmp_path / "0", 3.0, seed=1), _measured(tmp_path / "1", 3.0, "INVALID", seed=2)]
    assert together({name: _row(number) for number, name in enumerate(ids)}, tmp_path) == []
