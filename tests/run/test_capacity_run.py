"""A search for a capacity with real tenants: measured, tracked, found again."""

from __future__ import annotations

import json

from analysis import fetch
from tests.run.run_helpers import Workplace

SEARCH = (
    *("-m", "+experiment=capacity", "mix=distilgpt2", "sweep=found", "mix.tenants.distilgpt2.slo_ms=25"),
    *("capacity.attainment_pct=90", "capacity.low=0.1", "capacity.high=4", "capacity.tolerance_pct=100"),
    *("measure.iterations=80", "measure.min_time_s=0.5"),
)


def test_a_capacity_is_found_and_its_probes_are_in_mlflow(workplace: Workplace) -> None:
    """Four times what it serves alone saturates, a tenth does not; in between lies the answer, and each probe a run."""
    ran = workplace.run(*SEARCH)
    assert ran.code == 0, ran.err
    (search,) = json.loads((workplace.folder / "multirun/found/capacity.json").read_text())["searches"]
    assert search["outcome"] == "found", ran.out
    assert 0.1 <= search["kept"] < search["missed"] <= 4
    probes = fetch.runs(search["query"]).set_index("search_value")
    assert set(probes.index) == {probe["value"] for probe in search["probes"]}
    assert set(probes["verdict"]) == {"VALID"}
    assert set(probes["load"]) == set(probes.index)
    assert "search" not in fetch.runs("tags.mtexp.kind = 'baseline'")
    measured = len(list(workplace.mlflow_runs()))
    again = workplace.run(*SEARCH, "resume=true")
    assert again.code == 0, again.err
    assert "highest load kept" in again.out
    assert len(list(workplace.mlflow_runs())) == measured
