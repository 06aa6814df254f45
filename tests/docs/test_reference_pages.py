"""The reference pages have every key, with what it means and what is allowed."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from mtexp.config import schema
from mtexp.config.composer import Composer
from mtexp.records import keys

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
        import model_page
        import reference_pages
    return reference_pages, model_page


@pytest.fixture(scope="module")
def pages(modules):
    return modules[0]


@pytest.fixture(scope="module")
def found(pages):
    return {key.name: key for key in pages.all_keys(Composer())}


def test_every_key_has_a_meaning_and_a_default(found):
    assert [name for name, key in found.items() if not key.meaning or not key.default] == []
    assert {field.name for field in fields(schema.MeasureConfig)} == {
        name.removeprefix("measure.") for name in found if name.startswith("measure.")
    }
    assert "mix.tenants.<id>.arrival.rate" in found


def test_bounds_are_those_of_the_checks(found):
    """Of a range, of a lower bound with the most a key may be, and of a key that only some runs use."""
    assert found["measure.until_ci_pct"].bounds == "0 to 100"
    assert found["measure.iterations"].bounds.startswith("1 or more, at most ")
    assert found["mps_settings.active_thread_pct"].bounds == "0 to 100"
    assert found["capacity.tolerance_pct"].bounds == "0.5 to 100"
    without = {n for n, key in found.items() if key.type.startswith(("number", "integer")) and not key.bounds}
    assert without == {"capacity.attainment_pct"}  # its meaning has them


def test_defaults_are_those_of_the_command_line(found):
    assert found["measure.iterations"].default == "100"
    assert found["workload.seq_len"].default == "128"
    assert found["measure.design"].default == "null"


def test_choices_and_cells_survive_markdown(pages):
    text = pages.configuration()
    assert "| `precision` | `bf16`, `fp16`, `fp32`, `fp8`, `int8`, `tf32` |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `measure.")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}


def test_every_name_in_mlflow_is_on_its_page(pages):
    text = pages.keys_of_mlflow()
    assert [name for name in (*keys.METRICS, *keys.PARAMS, *keys.TAGS) if f"| `{name}` |" not in text] == []


def test_every_model_is_on_its_page_with_its_size(modules):
    text = modules[1].page()
    names = Composer().options("models")
    assert [name for name in names if f"| `{name}` |" not in text] == []
    assert [name for name in names if name not in (ROOT / "README.md").read_text(encoding="utf-8")] == []
    row = next(line for line in text.splitlines() if line.startswith("| `llama_3_2_1b` |"))
    assert [cell.strip() for cell in row.split("|")[3:7]] == ["1,236 M", "2.30 GiB", "16", "2048"]
