from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Iterator

import psutil
import pytest

from mtexp import processes
from mtexp.launch import ForkserverStarter

# at import: whichever test of the session starts the server first, tenants are forked from one that has torch
multiprocessing.get_context("forkserver").set_forkserver_preload(processes.PRELOADED)


def _forked() -> list[psutil.Process]:
    pid = getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None)
    return psutil.Process(pid).children(recursive=True) if pid else []


def forked() -> set[int]:
    """Processes that the forkserver of this test run has now."""
    return {child.pid for child in _forked()}


def open_sockets() -> set[str]:
    """Addresses of tenant groups that this process still has a socket of."""
    return {s.laddr for s in psutil.Process().net_connections(kind="unix") if "mtexp-" in s.laddr}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """After the test there is no process that was not there before, and no socket of a tenant group."""
    ForkserverStarter().warm()
    before, own, sockets = forked(), {child.pid for child in psutil.Process().children()}, open_sockets()
    yield
    left = [child for child in _forked() if child.pid not in before]  # one that ends meanwhile is no error
    left += [child for child in psutil.Process().children() if child.pid not in own]
    _, alive = psutil.wait_procs(left, timeout=3)
    assert not alive
    assert open_sockets() <= sockets


@pytest.fixture
def bare_server() -> Iterator[None]:
    """A forkserver that imports nothing, in the place of the one of this test run, which is not stopped."""
    server = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    before = dict(vars(server))
    server.__init__()
    server._preload_modules = []
    try:
        yield
    finally:
        processes._kill(server._forkserver_pid)
        server._stop()
        vars(server).update(before)
