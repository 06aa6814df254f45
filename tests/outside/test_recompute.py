"""Stored figures are those of the requests: recomputed by a program that shares no code with the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.data import load
from analysis.export_files import write_export
from tests.analysis.crossover_study import CrossoverStudy

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results"


def recompute(*folders: Path) -> subprocess.CompletedProcess[str]:
    """Run it by itself: isolated, so that nothing of the project can be imported."""
    command = [sys.executable, "-I", str(HERE / "recompute.py"), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)


@pytest.fixture(scope="module")
def in_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair and a triple in rounds."""
    study = CrossoverStudy(tmp_path_factory.mktemp("in-rounds"))
    study.measure(["bert_base", "gpt2"], "disabled", "eager")
    study.measure(["bert_base", "gpt2", "vit_base"], "default", "cuda_graph")
    return study.folder


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/records")))
def test_committed_records_say_what_their_requests_say(name: str) -> None:
    """Slowdown, NP, STP, ANTT, and NP x slowdown = 1 but for the gaps between requests."""
    ran = recompute(RESULTS / name / "records")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout.split()[0]) > 100, ran.stdout


def test_records_and_exports_of_runs_in_rounds_too(in_rounds: Path, tmp_path: Path) -> None:
    write_export(load(records=in_rounds), tmp_path)
    for folder in (in_rounds, tmp_path):
        ran = recompute(folder)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "of 2 runs recomputed (2 in rounds), 0 disagree" in ran.stdout


def test_a_figure_that_its_requests_do_not_show_is_found(in_rounds: Path, tmp_path: Path) -> None:
    """The check can fail: one slowdown is 1 % off."""
    source = next(in_rounds.glob("*/record.json")).parent
    record = json.loads((source / "record.json").read_text())
    record["tenants"][0]["metrics"]["slowdown"] *= 1.01
    (tmp_path / "record.json").write_text(json.dumps(record))
    (tmp_path / "iterations.parquet").write_bytes((source / "iterations.parquet").read_bytes())
    ran = recompute(tmp_path)
    assert ran.returncode == 1
    assert "slowdown of tenant 0" in ran.stdout


def test_it_imports_nothing_of_the_project() -> None:
    words = (HERE / "recompute.py").read_text()
    assert "import mtexp" not in words
    assert not any(line.startswith(("from mtexp", "from analysis", "from tests")) for line in words.splitlines())
