"""int8 and fp8 weights on a real GPU: right, checked against what the weights stand for, also as CUDA graphs."""

from __future__ import annotations

import importlib.util
import logging

import pytest

from mtexp.host import Device
from mtexp.testing.faults import BUILD, Fault
from tests.run.conftest import nothing_left, workplace
from tests.run.run_helpers import SMALL, Workplace

__all__ = ["nothing_left", "workplace"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.process,
    # looked for, not imported: torchao starts CUDA, and this process starts the tenants of all other tests
    pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed"),
]

log = logging.getLogger(__name__)

GPU = tuple("runtime=gpu" if text == "runtime=cpu" else text for text in SMALL)
LLAMA = "mix.tenants.llama_3_2_1b.workload=decode"


@pytest.mark.parametrize(
    ("precision", "execution"), [("int8", "eager"), ("fp8", "eager"), ("int8", "cuda_graph"), ("fp8", "cuda_graph")]
)
def test_a_mix_in_quantised_weights_is_valid(gpu: Device, workplace: Workplace, precision: str, execution: str) -> None:
    """Layers are compared with float32, outputs in the window with the warm-up; weights take about half of bf16's."""
    if precision == "fp8" and gpu.capability is not None and gpu.capability < (8, 9):
        pytest.skip(f"{gpu.name} has no fp8")
    more = ("baseline=skip", f"precision={precision}", f"execution={execution}")
    ran = workplace.run("mix=bert_base+llama_3_2_1b", LLAMA, *more, small=GPU)
    (record,) = workplace.records("outputs").values()
    assert (record.status, record.verdict) == ("FINISHED", "VALID"), ran.out
    for tenant in record.tenants:
        check = tenant.facts_after["layers_check"]
        log.info(
            "%s %s %s: %.3f ms, %s", tenant.id, precision, execution, tenant.metrics["latency_p50_ms"], check["worst"]
        )
        assert check["kinds"] >= 4
        assert check["wrong_kinds"] == check["unchecked"] == 0
    llama = record.tenants[1].facts_after
    assert llama["memory_allocated_mib"] < 2000  # 2357 MiB in bf16


def test_a_wrong_tile_of_a_quantised_layer_is_found(gpu: Device, workplace: Workplace) -> None:
    """The tolerance of int8 is not so wide that it hides one."""
    faults = {"b": Fault(kind="wrong_layers", at=BUILD)}
    workplace.run("mix=pair", "precision=int8", "baseline=skip", small=GPU, faults=faults)
    (record,) = workplace.records("outputs").values()
    assert record.verdict == "INVALID"
    assert {finding.tenant for finding in record.findings if finding.code == "wrong-output"} == {"b"}
