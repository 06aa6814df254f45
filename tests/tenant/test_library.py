"""transformers is what it is without the shortcuts of its import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import transformers
from transformers.loss import loss_for_object_detection
from transformers.utils import import_utils

from mtexp.tenant import library


def test_what_the_models_define_is_read_once_and_the_same() -> None:
    """What transformers found in its models the first time, by shorter names, is what it would have found again."""
    folder = Path(transformers.__file__).parent / "models"
    again = import_utils.define_import_structure(f"{folder}/__init__.py")
    assert library.without_prefix(import_utils.define_import_structure(folder, prefix="models")) == again
    questions = []

    def define(module_path: object, prefix: str | None = None) -> dict[object, dict[str, set[str]]]:
        questions.append((str(module_path), prefix))
        return {frozenset(): {"models.bert": {"Bert"}, "other": {"Other"}}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_utils, "define_import_structure", define)
        with library.models_read_once():
            assert import_utils.define_import_structure(f"{folder}/__init__.py") == {frozenset(): {"bert": {"Bert"}}}
            import_utils.define_import_structure("elsewhere/__init__.py")
        assert import_utils.define_import_structure is define
    assert questions == [(str(folder), "models"), ("elsewhere/__init__.py", None)]


def test_a_module_is_loaded_when_one_of_its_functions_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with library.loaded_when_called("colorsys"):
        from colorsys import rgb_to_hsv
    assert "colorsys" not in sys.modules
    assert rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
    loaded = sys.modules["colorsys"]
    with library.loaded_when_called("colorsys"):
        assert sys.modules["colorsys"] is loaded


def test_a_loss_for_object_detection_finds_its_function() -> None:
    assert [part.tolist() for part in loss_for_object_detection.linear_sum_assignment([[1, 2], [3, 0]])] == [[0, 1]] * 2
