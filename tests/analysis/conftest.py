"""A small study as records, shared by the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest
from analysis_study import Study

from analysis import plots
from analysis.data import load
from analysis.dataset import Dataset
from analysis.pooling import Results, pool

MODELS = ("bert_base", "deberta_v3_base", "distilgpt2", "llama_3_2_1b")


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs under time slicing and MPS, one mix three times, scaling, stressors, load, tokens."""
    folder = tmp_path_factory.mktemp("study")
    study = Study(folder)
    for mps in ("disabled", "default"):
        for first, model in enumerate(MODELS):
            for other in MODELS[first:]:
                study.run([model, other], mps)
            study.run([model, "stress_sm"], mps)
        study.run(["bert_base"], mps)
        study.run(["bert_base"] * 4, mps, mix="bert_base*4")
        study.run(MODELS, mps, mix="mixed", repetitions=3)
        for load_share in (0.2, 0.5):
            study.run(["bert_base"], mps, load=load_share, slo_ms=20)
        study.run(["llama_3_2_1b", "bert_base"], mps, workload="decode")
        study.run(["llama_3_2_1b", "bert_base"], mps, workload="generate")
    for mps in ("half", "quarter"):
        study.run(["distilgpt2", "llama_3_2_1b"], mps)
    return folder


@pytest.fixture(scope="session")
def study(study_folder: Path) -> Dataset:
    return load(records=study_folder)


@pytest.fixture(scope="session")
def results(study: Dataset) -> Results:
    return pool(study, draws=200)


@pytest.fixture(scope="session")
def drawn(results: Results) -> dict[str, go.Figure]:
    """Every figure of the study; tests read them only."""
    return plots.draw(results)
