"""The positive control of the output check on a real GPU: a tenant with one wrong tile makes its run INVALID."""

from __future__ import annotations

import pytest

from mtexp.host import Device
from mtexp.testing.faults import BUILD, Fault
from tests.run.conftest import nothing_left, workplace
from tests.run.run_helpers import SMALL, Workplace

__all__ = ["nothing_left", "workplace"]

pytestmark = [pytest.mark.gpu, pytest.mark.process]

GPU = tuple("runtime=gpu" if text == "runtime=cpu" else text for text in SMALL)
FAULTS = {
    "in its layers": Fault(kind="wrong_layers", at=BUILD),
    "in the window": Fault(kind="wrong_output", at=30),
}


@pytest.mark.parametrize("mode", ["disabled", "default"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_tile_makes_the_run_invalid(gpu: Device, workplace: Workplace, name: str, mode: str) -> None:
    """The tenant that computes wrong is named, its neighbour is not."""
    workplace.run("mix=pair", f"mps_settings={mode}", "baseline=skip", small=GPU, faults={"b": FAULTS[name]})
    (record,) = workplace.records("outputs").values()
    assert (record.status, record.verdict) == ("FINISHED", "INVALID")
    assert {finding.tenant for finding in record.findings if finding.code == "wrong-output"} == {"b"}
