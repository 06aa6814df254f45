"""The committed roofline drawn again from its table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis import roofline
from mtexp.colours import model_colour

TABLE = Path("docs/archive/h200/roofline.csv")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Figures by the file that they would have been written to."""
    files: dict[str, Any] = {}

    def write(figures: dict[str, Any], folder: Path) -> list[Path]:
        paths = [folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
        for path in paths:
            path.write_text("<svg/>")
            files[path.name] = figures[path.stem]
        return paths

    monkeypatch.setattr("analysis.roofline.write_images", write)
    return files


def test_a_table_is_drawn_again_beside_itself(drawn: dict[str, Any], tmp_path: Path) -> None:
    """Each model in its colour, at its intensity, its sentence below; nothing else in the folder is touched."""
    table = shutil.copy(TABLE, tmp_path)
    (tmp_path / "capacity.svg").write_text("of a report")
    assert roofline.main([str(table), "--device", "NVIDIA H200"]) == 0
    assert set(drawn) == {"roofline.png", "roofline.svg"}
    points = {trace.text[0]: trace for trace in drawn["roofline.svg"].data if trace.text}
    rows = roofline.read_rows(TABLE)
    assert set(points) == {row.model for row in rows}
    for row in rows:
        assert points[row.model].marker.color == model_colour(row.model)
        assert points[row.model].x[0] == row.intensity
    assert "mistral_7b: alone, the GPU waits" in drawn["roofline.svg"].layout.annotations[-1].text
    assert (tmp_path / "capacity.svg").is_file()


@pytest.mark.parametrize(
    ("text", "device", "message"),
    [
        ("", "NVIDIA H200", "not a readable table"),
        ("model,precision\na,fp16\n", "NVIDIA H200", "lacks tenant"),
        (TABLE.read_text().replace("307.4264587470928", "many"), "NVIDIA H200", "column intensity must be numbers"),
        (TABLE.read_text().replace("fp16", "fp4"), "NVIDIA H200", "no published peak of H200 SXM for fp4"),
        (TABLE.read_text(), "GeForce", "no published peaks; known: B200"),
    ],
)
def test_what_cannot_be_drawn_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, device: str, message: str
) -> None:
    """Exit code 2, which column or device, no traceback."""
    table = tmp_path / "roofline.csv"
    table.write_text(text)
    assert roofline.main([str(table), "--device", device]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
