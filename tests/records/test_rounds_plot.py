"""The picture of a run in rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from mtexp.colours import shades
from mtexp.metrics.crossover import Block
from mtexp.metrics.samples import Samples
from mtexp.records.picture import draw_run
from mtexp.records.record import RunRecord, save
from mtexp.records.rounds_picture import write_rounds_plot
from mtexp.testing.records import example
from tests.metrics.test_crossover_summary import run

MODELS = {"t0": "bert_base", "t1": "llama_3_2_1b"}


def _run(rounds: int = 12) -> tuple[dict[str, Samples], list[Block]]:
    return run({"t0": 2.0, "t1": 4.0}, {"t0": 3.0, "t1": 8.0}, rounds=rounds, noise=0.05)


@pytest.mark.parametrize("rounds", [1, 12])
def test_a_run_in_rounds_gets_a_picture_of_them(tmp_path: Path, rounds: int) -> None:
    """Each tenant in the colour of its model; one round has no interval, and a picture all the same."""
    samples, blocks = _run(rounds)
    path = write_rounds_plot(tmp_path / "plots", samples, MODELS, blocks)
    assert path == tmp_path / "plots" / "rounds.png"
    seen = {tuple(pixel) for pixel in np.round(255 * imread(path)[..., :3]).astype(int).reshape(-1, 3)}
    assert all(tuple(bytes.fromhex(colour[1:])) in seen for colour in shades(list(MODELS.values())))


def test_without_a_round_of_both_sides_there_is_none(tmp_path: Path) -> None:
    """A run that was interrupted in its first block."""
    samples, blocks = _run(1)
    samples = {name: own.select(own.block == 0) for name, own in samples.items()}
    assert write_rounds_plot(tmp_path / "plots", samples, MODELS, blocks[:1]) is None


def test_it_is_drawn_beside_the_record_of_a_crossover_run_only(tmp_path: Path) -> None:
    """By the same call as the picture of latencies, before the upload."""
    samples, blocks = _run()
    record, others = example(list(MODELS.values()))
    measured: RunRecord = replace(record, blocks=tuple(blocks))
    for folder, kept, rows in (("in-turns", measured, samples), ("sustained", record, others)):
        save(kept, tmp_path / folder, rows)
        draw_run(tmp_path / folder)
    assert {path.name for path in (tmp_path / "in-turns" / "plots").iterdir()} == {"latency.png", "rounds.png"}
    assert {path.name for path in (tmp_path / "sustained" / "plots").iterdir()} == {"latency.png"}
