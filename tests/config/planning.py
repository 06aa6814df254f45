"""Planning a command line on a GPU that is not there: what the tests of plans share."""

from __future__ import annotations

import pytest

from mtexp.config.hardware import hardware_of
from mtexp.config.plan import Plan, plan
from mtexp.config.problems import Refused
from mtexp.host import Device

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)


def plan_of(*argv: str) -> Plan:
    """The plan of a command line."""
    return plan(argv, hardware=lambda: hardware_of(GPU))


def refusal(*argv: str) -> str:
    """Why a command line is refused."""
    with pytest.raises(Refused) as refused:
        plan_of(*argv)
    return str(refused.value)
