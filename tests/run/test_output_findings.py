"""Wrong outputs and other weights, from the facts of tenants to the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mtexp.running.evaluation import Comparison
from mtexp.spec import MpsLimits
from tests.run.evaluated import ALONE, RUN, codes, measurement, record

CHECKED = {"kinds": 9, "compared": 20, "wrong_kinds": 0, "unchecked": 0, "examples": []}


DEVIATION = {"error": 0.4, "nonfinite": 0, "off": 4000}


WRONG = {**CHECKED, "wrong_kinds": 2, "examples": [{"product": "linear 8x16, 4x16", "precision": "fp16", **DEVIATION}]}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"layers_check": WRONG}, "2 of the 9 kinds"),
        ({"layers_check": CHECKED, "outputs_check": {"kept": 6, "wrong": 1, "worst": DEVIATION}}, "1 of the 6 outputs"),
        (
            {"outputs_check": {"kept": 6, "wrong": 0, "against_layers": DEVIATION, "against_layers_wrong": True}},
            "execution=eager",
        ),
    ],
)
def test_a_wrong_output_is_invalid_and_names_tenant_and_error(facts: dict[str, Any], said: str) -> None:
    """Whichever of the three checks found it."""
    found = record(measurement(facts_after={"a": facts, "b": {"layers_check": CHECKED}}))
    assert (found.verdict, codes(found)) == ("INVALID", {"wrong-output"})
    (finding,) = (f for f in found.findings if f.code == "wrong-output")
    assert finding.tenant == "a"
    assert said in finding.message
    assert "0.4" in finding.message


def test_at_a_percentage_the_remedy_names_those_that_are_right() -> None:
    """With the SM count, from the table of what was measured on such a GPU and stack."""
    spec = replace(RUN, tenants=tuple(replace(t, mps=MpsLimits(active_thread_pct=20.0)) for t in RUN.tenants))
    gpu = {"device_name": "NVIDIA H100 80GB HBM3", "torch_version": "2.11.0+cu130", "torch_cuda_version": "13.0"}
    facts = {**gpu, "sm_count": 26, "layers_check": WRONG}
    found = record(measurement(facts_after={"a": facts}), spec=spec)
    (finding,) = (f for f in found.findings if f.code == "wrong-output")
    assert "on 26 SMs" in finding.message
    assert "23" in finding.remedy
    assert "mtexp.sharing.numerics" in finding.remedy


@pytest.mark.parametrize(("own", "level"), [("w1", None), ("w2", "warning")])
def test_other_weights_than_the_baselines_are_a_warning(own: str, level: str | None) -> None:
    """Of the same seed; another seed is meant to give others."""
    alone = replace(ALONE, ref=replace(ALONE.ref, computed_with="0:w1:i1"))
    facts = {"a": {"weights_checksum": own, "inputs_checksum": "i1"}}
    found = record(measurement(facts_after=facts), Comparison(alone={"a": alone, "b": ALONE}))
    assert [f.level for f in found.findings if f.code == "other-weights"] == ([level] if level else [])
    spec = replace(RUN, tenants=tuple(replace(t, seed=1) for t in RUN.tenants))
    found = record(measurement(facts_after=facts), Comparison(alone={"a": alone, "b": ALONE}), spec)
    assert "other-weights" not in codes(found)


def _own_code() -> Any:
    first, *others = RUN.tenants
    model = replace(first.model, role="custom", target="mine:build")
    return replace(RUN, tenants=(replace(first, model=model), *others))


def test_own_code_without_an_output_is_not_checked_and_says_so() -> None:
    """A note; none where its layers were checked, or where nobody asked."""
    found = record(measurement(facts_after={"a": {}}), spec=_own_code())
    assert [(f.level, f.tenant) for f in found.findings if f.code == "output-unchecked"] == [("note", "a")]
    checked = record(measurement(facts_after={"a": {"layers_check": CHECKED}}), spec=_own_code())
    assert "output-unchecked" not in codes(checked)


@pytest.mark.parametrize(("after_mib", "warned"), [(110.0, False), (200.0, True)])
def test_own_code_that_takes_memory_while_it_measures_is_warned_about(after_mib: float, warned: bool) -> None:
    """Such a call may wait for the device; what a library keeps is none."""
    before, after = ({"a": {"memory_allocated_mib": mib}} for mib in (100.0, after_mib))
    found = record(measurement(facts_before=before, facts_after=after), spec=_own_code())
    assert ("memory-grew" in {f.code for f in found.findings if f.level == "warning"}) == warned
