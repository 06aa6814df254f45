"""What tests on a real GPU need: the device, or a skip that ``MTEXP_REQUIRE_GPU=1`` turns into a failure."""

import os

import pytest

from mtexp.errors import HostError
from mtexp.host import Device


@pytest.fixture(name="gpu", scope="session")
def _gpu() -> Device:
    """The first GPU that NVML lists."""
    from mtexp.telemetry.nvml import find_devices

    try:
        devices = find_devices()
        reason = "NVML lists no GPU"
    except HostError as error:
        devices, reason = [], str(error)
    if devices:
        return devices[0]
    if os.environ.get("MTEXP_REQUIRE_GPU") == "1":
        pytest.fail(f"MTEXP_REQUIRE_GPU=1, and {reason}")
    pytest.skip(reason)
