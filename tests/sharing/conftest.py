"""Specs, a device, and the stand-ins on PATH for the tests of mtexp.sharing."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sharing_helpers import UUID

from mtexp.host import Device
from mtexp.testing.mps import StubMps, install


@pytest.fixture(name="device")
def _device() -> Device:
    return Device("gpu", 0, UUID, "NVIDIA H200", 143771, 132)


@pytest.fixture(name="root")
def _root() -> Iterator[Path]:
    """A short directory, as the addresses of sockets need it."""
    root = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    yield root
    left = sorted(path.name for path in root.iterdir())
    shutil.rmtree(root)
    assert left == [], "a private directory was left behind"


@pytest.fixture(name="stub")
def _stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StubMps]:
    """Install the stand-ins first on PATH."""

    def make(**settings: object) -> StubMps:
        stub = install(tmp_path / "bin", **({"uuid": UUID} | settings))
        monkeypatch.setenv("PATH", f"{stub.directory}:{os.environ['PATH']}")
        return stub

    return make
