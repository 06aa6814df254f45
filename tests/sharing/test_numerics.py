"""``python -m mtexp.sharing.numerics``: the real command, daemon stand-in and processes, on a CPU that plays a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtexp.errors import MtexpError
from mtexp.sharing import numerics
from mtexp.sharing.numerics_report import QUICK, USUAL, every_count
from mtexp.testing import mps
from mtexp.testing.numerics import FATAL, SMS, WRONG, serve_on_cpu

pytestmark = pytest.mark.process


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mps.StubMps:
    installed = mps.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{installed.directory}:{os.environ['PATH']}")
    monkeypatch.setenv("MTEXP_LEASE_DIR", str(tmp_path / "lease"))
    return installed


def run(*arguments: str) -> int:
    return numerics.main(["--models", "none", "--shapes", "24x16x32", *arguments], target=serve_on_cpu, runtime="cpu")


def test_all_right_is_0(stub: mps.StubMps, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--percentages", "100,50") == 0
    shown = capsys.readouterr().out
    assert "Right: 132 SMs (100 %), 66 SMs (50 %)" in shown
    assert "Wrong: none" in shown


def test_wrong_percentages_are_found_and_the_rest_goes_on(
    stub: mps.StubMps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fatal = f"{100 * FATAL / SMS + 0.01:.2f}"
    assert run("--percentages", f"50,33.33,33.34,{fatal},75,25", "--json", str(tmp_path / "r.json")) == 1
    report = json.loads((tmp_path / "r.json").read_text())
    rows = {row["percentage"]: row for row in report["results"]}
    assert report["complete"]
    assert rows[None]["sm_count"] == SMS
    assert {rows[33.33]["sm_count"], rows[75.0]["sm_count"]} == set(WRONG)
    for percentage in (33.33, 75.0):
        wrong = [found for found in rows[percentage]["products"] if found["wrong"]]
        assert [(found["precision"], found["error"]) for found in wrong] == [("fp16", None)]
        assert wrong[0]["nonfinite"] > 0
    assert rows[33.34]["same_as"] == 33.33
    assert rows[33.34]["products"] == []
    assert "exit code 9" in rows[float(fatal)]["failure"]
    for percentage in (None, 50.0, 25.0):
        assert not any(found["wrong"] for found in rows[percentage]["products"]), percentage
    assert rows[25.0]["sm_count"] == 32
    assert "Wrong: 98 SMs (75 %), 44 SMs (33.33 %), 12 SMs" in capsys.readouterr().out
    assert stub.commands().count("quit -t 5") == 2  # the daemon is replaced after the death of a client


def test_products_and_whole_models_of_the_configuration(
    stub: mps.StubMps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "small.yaml").write_text(
        "name: small\nrole: encoder\narchitecture: bert\nattention: [eager]\n"
        "shape: {vocab_size: 99, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, "
        "intermediate_size: 64, max_position_embeddings: 32, type_vocab_size: 2, pad_token_id: 0}\n"
    )
    (folder / "stress.yaml").write_text("name: stress\nrole: stressor\narchitecture: sm\nshape: {size: 8}\n")
    monkeypatch.setattr(numerics, "_MODELS", folder)
    options = ["--percentages", "33.33", "--batch-size", "2", "--seq-len", "8", "--json", str(tmp_path / "r.json")]
    assert numerics.main(options, target=serve_on_cpu, runtime="cpu") == 1
    report = json.loads((tmp_path / "r.json").read_text())
    names = {product["name"] for product in report["products"]}
    assert {"linear 2x8x32, 64x32, 64", "matmul 2x2x8x16, 2x2x16x8"} <= names
    control, capped = report["results"]
    assert [(m["name"], m["precision"], m["wrong"]) for m in control["models"]] == [
        ("small", "fp16", False),
        ("small", "bf16", False),
    ]
    assert capped["models"][0]["error"] < 0.02
    assert {found["name"] for found in capped["products"] if found["wrong"]} == {n for n in names if "linear" in n}


def test_workarounds_are_tried_at_the_wrong_percentage(stub: mps.StubMps, tmp_path: Path) -> None:
    only = {name: numerics_way for name, numerics_way in _ways().items() if name in ("none", "64 rows more")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtexp.sharing.numerics_run.workarounds.SETTINGS", only)
        assert run("--percentages", "50,33.33", "--probe-workarounds", "--json", str(tmp_path / "r.json")) == 1
    tried = json.loads((tmp_path / "r.json").read_text())["workarounds"]
    assert [probe["workaround"] for probe in tried] == list(only)
    assert {probe["sm_count"] for probe in tried} == {44}
    wrong = [sum(bool(found.get("wrong")) for found in probe["products"]) for probe in tried]
    assert wrong[0] == 1


def _ways() -> dict:
    from mtexp.tenant.workarounds import SETTINGS

    return dict(SETTINGS)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_after_the_rows_so_far(
    stub: mps.StubMps,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    monkeypatch.setattr(numerics._Table, "row", lambda table, name, row: os.kill(os.getpid(), number))
    assert run("--percentages", "100,50", "--json", str(tmp_path / "r.json")) == code
    assert "Interrupted by" in capsys.readouterr().err


def test_without_mps_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run() == 2
    assert "nvidia-cuda-mps-control is not on PATH" in capsys.readouterr().err


def test_without_a_gpu_it_says_so(stub: mps.StubMps, capsys: pytest.CaptureFixture[str]) -> None:
    assert numerics.main(["--models", "none", "--shapes", "8x8x8"]) == 2
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--shapes", "8x8"], ["--models", "gpt7"], ["--json", "/nonexistent/r.json"]],
)
def test_what_cannot_be_is_refused_before_anything_starts(stub: mps.StubMps, arguments: list[str]) -> None:
    assert numerics.main(arguments, target=serve_on_cpu, runtime="cpu") == 2
    assert stub.commands() == []


@pytest.mark.parametrize("arguments", [["--percentages", "0"], ["--percentages", "101"], ["--precisions", "fp8"]])
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        numerics.main(arguments)
    assert exited.value.code == 2


def test_every_sm_count_has_a_percentage() -> None:
    assert [int(132 * pct / 100) // 2 * 2 for pct in every_count(132)] == list(range(130, 7, -2))
    assert [int(108 * pct / 100) // 2 * 2 for pct in every_count(108)] == list(range(106, 7, -2))
    assert set(QUICK) < set(USUAL)


def test_it_needs_neither_mlflow_nor_hydra_nor_torch_to_start() -> None:
    code = "import sys, mtexp.sharing.numerics; print([m for m in ('mlflow', 'hydra', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_file_of_the_report_is_whole_after_each_percentage(stub: mps.StubMps, tmp_path: Path) -> None:
    seen = []
    save = numerics._saver(tmp_path / "r.json")

    def watched(report: numerics.Report) -> None:
        save(report)
        seen.append((len(json.loads((tmp_path / "r.json").read_text())["results"]), report.complete))

    args = numerics._parser().parse_args(["--models", "none", "--shapes", "8x8x8", "--percentages", "50,25"])
    options = numerics._options(args, "cpu")
    numerics.Checker(options, lambda name, row: None, watched, serve_on_cpu).run()
    assert seen == [(1, False), (2, False), (3, False), (3, True)]


def test_an_unwritable_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MtexpError, match="no folder"):
        numerics._saver(tmp_path / "nothing" / "r.json")
