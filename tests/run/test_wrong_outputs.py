"""Tenants that compute wrong: the run is INVALID, and says who, what and by how much."""

from __future__ import annotations

import pytest

from mtexp.testing.faults import BUILD, Fault
from tests.run.run_helpers import Workplace

pytestmark = pytest.mark.process

ALONE = "baseline=skip"


def reasons(workplace: Workplace, code: str) -> dict[str, str]:
    (record,) = workplace.records("outputs").values()
    return {finding.tenant: finding.message for finding in record.findings if finding.code == code}


def test_a_wrong_layer_makes_the_run_invalid(workplace: Workplace) -> None:
    faults = {"b": Fault(kind="wrong_layers", at=BUILD)}
    ran = workplace.run("mix=pair", ALONE, faults=faults)
    (record,) = workplace.records("outputs").values()
    assert (record.status, record.verdict) == ("FINISHED", "INVALID")
    found = reasons(workplace, "wrong-output")
    assert set(found) == {"b"}
    assert "linear" in found["b"]
    assert "fp16" in found["b"]
    assert "INVALID" in ran.out
    check = {t.id: t.facts_before["layers_check"] for t in record.tenants}
    assert check["a"]["wrong_kinds"] == 0 < check["b"]["wrong_kinds"]


def test_a_wrong_output_in_the_window_makes_the_run_invalid(workplace: Workplace) -> None:
    workplace.run("mix=pair", ALONE, faults={"a": Fault(kind="wrong_output", at=30)})
    found = reasons(workplace, "wrong-output")
    assert set(found) == {"a"}
    assert "kept" in found["a"]


def test_it_can_be_turned_off_and_says_so(workplace: Workplace) -> None:
    faults = {"b": Fault(kind="wrong_layers", at=BUILD)}
    workplace.run("mix=pair", ALONE, "measure.check_outputs=false", faults=faults)
    (record,) = workplace.records("outputs").values()
    assert record.status == "FINISHED"
    assert "output-unchecked" in reasons_of(record)
    assert "wrong-output" not in reasons_of(record)
    assert "layers_check" not in record.tenants[0].facts_after


def test_stressors_have_nothing_to_check(workplace: Workplace) -> None:
    workplace.run("mix=bert_base+stress_sm", ALONE)
    found = reasons(workplace, "output-unchecked")
    assert "stress_sm" in found[""]


def reasons_of(record) -> set[str]:
    return {finding.code for finding in record.findings}
