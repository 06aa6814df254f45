"""Weights in memory once on a real GPU: CUDA IPC between processes that take turns, and between clients of CUDA MPS."""

from __future__ import annotations

import logging

import pytest

from mtexp.host import Device
from tests.run.conftest import nothing_left, workplace
from tests.run.run_helpers import SMALL, Workplace

__all__ = ["nothing_left", "workplace"]

pytestmark = [pytest.mark.gpu, pytest.mark.process]

log = logging.getLogger(__name__)

GPU = tuple("runtime=gpu" if text == "runtime=cpu" else text for text in SMALL)
CONTEXT_MIB = 1024
"""Context and libraries of one process, at most."""


@pytest.mark.parametrize(
    ("mode", "execution"), [("disabled", "eager"), ("default", "eager"), ("default", "cuda_graph")]
)
def test_three_replicas_have_their_weights_once(gpu: Device, workplace: Workplace, mode: str, execution: str) -> None:
    """Torch's counters of each hold activations alone, and the device holds the weights once, not three times."""
    more = ("baseline=skip", "precision=bf16", f"execution={execution}", "share_weights=true")
    ran = workplace.run("mix=llama_3_2_1b*3", f"mps_settings={mode}", *more, small=GPU)
    (record,) = workplace.records("outputs").values()
    assert (record.status, record.verdict) == ("FINISHED", "VALID"), ran.out
    facts = [tenant.facts_after for tenant in record.tenants]
    weights_mib = facts[0]["shared_weights_mib"]
    assert weights_mib > 2000
    assert sorted(own["weights"] for own in facts) == ["borrowed", "borrowed", "kept"]
    assert len({own["weights_checksum"] for own in facts}) == 1
    assert all(own["memory_peak_mib"] < weights_mib / 4 for own in facts)
    assert "weights-shared" in {finding.code for finding in record.findings}
    used_mib = record.telemetry["gpu_memory_used_mib_max"]
    peaks_mib = [round(own["memory_peak_mib"]) for own in facts]
    log.info("%s %s: weights %.0f MiB, device %.0f MiB, torch %s", mode, execution, weights_mib, used_mib, peaks_mib)
    assert used_mib < weights_mib + 3 * CONTEXT_MIB + 1024
