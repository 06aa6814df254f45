"""A crossover run under CUDA MPS says that its slowdowns compare with alone under MPS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mtexp.config import compose_spec
from mtexp.host import Device
from mtexp.metrics.summary import RunSummary
from mtexp.running.crossover_figures import block_findings

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)


@pytest.mark.parametrize(("mode", "said"), [("default", True), ("disabled", False)])
def test_the_price_of_mps_is_said_not_to_be_in_the_slowdown(mode: str, said: bool) -> None:
    spec = compose_spec(["mix=pair", f"mps_settings={mode}"], GPU)
    measured: Any = SimpleNamespace(failure=None, cores=None, blocks=())
    codes = {finding.code for finding in block_findings(spec, measured, RunSummary({"rounds": 12.0}, {}, {}))}
    assert ("alone-in-mode" in codes) == said
