"""The process that reads models off: one for all questions, started again where it ended."""

from __future__ import annotations

import json

import pytest

from mtexp.config import read_off
from mtexp.spec import ModelSpec, WorkloadSpec, to_json

pytestmark = [pytest.mark.process, pytest.mark.slow]


def question(width: int, architecture: str = "bert") -> str:
    shape = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ModelSpec(name="small", role="encoder", architecture=architecture, shape=shape)
    return json.dumps({"model": to_json(model), "workload": to_json(WorkloadSpec(batch_size=1, seq_len=4))})


def test_one_process_answers_all_questions_and_is_replaced_when_it_ended() -> None:
    ended, _ = read_off._running()
    ended.kill()  # also how one that waited in vain looks to the next question
    ended.wait()
    assert read_off._ask(question(8))["parameters"] > 0
    child = read_off._child
    assert child is not ended
    assert "error" in read_off._ask(question(8, architecture="no_such_architecture"))
    assert read_off._ask(question(16))["parameters"] > 0
    assert read_off._child is child
    read_off._end()


def test_one_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_off, "PATIENCE_S", 0.01)
    assert read_off._ask(question(64)) == {"error": "nothing within 0.01 s", "field": "architecture"}
    assert read_off._child is None


def test_one_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    read_off._end()
    for width, executable in ((128, "/bin/false"), (256, "/nowhere/python")):
        monkeypatch.setattr(read_off.sys, "executable", executable)
        assert "counting failed" in read_off._ask(question(width))["error"]
    read_off._end()
