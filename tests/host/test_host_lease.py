"""Two runs never measure on one device at once."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mtexp.errors import HostError, LeaseBusy
from mtexp.host import Device
from mtexp.leases import lease
from mtexp.terminal.place import can_lease
from tests.other_user import an_ordinary_user

ONE = Device("gpu", 0, "GPU-1", "NVIDIA H200", 1)
TWO = Device("gpu", 1, "GPU-2", "NVIDIA H200", 1)
MIG_A = Device("gpu", 0, "MIG-a", "NVIDIA H200 MIG 1g.18gb", 1, 16, "GPU-1")


@pytest.fixture(autouse=True)
def _lease_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEXP_LEASE_DIR", str(tmp_path / "lease"))


def _busy(*devices):
    with lease(devices, wait_s=0, label="second"):
        pytest.fail("the device was leased twice")


def test_busy_device_fails_at_once_and_names_its_holder():
    """With no wait the second run is told who measures: run, process, user, since when."""
    with lease([ONE], wait_s=0, label="bert_base*4"), pytest.raises(LeaseBusy) as caught:
        _busy(ONE)

    assert "'bert_base*4'" in str(caught.value)
    assert f"pid {os.getpid()}" in str(caught.value)
    assert "GPU-1" in str(caught.value)


def test_first_free_device_of_several_is_handed_out():
    """One run a GPU: the second run gets the second GPU, the third none."""
    with lease([ONE, TWO], wait_s=0, label="a") as first, lease([ONE, TWO], wait_s=0, label="b") as second:
        assert (first, second) == (ONE, TWO)
        with pytest.raises(LeaseBusy, match=r"'a'.*'b'"):
            _busy(ONE, TWO)


def test_waiting_run_says_for_whom_and_gets_the_device(caplog):
    """The wait is announced once, with the holder's name, and ends as soon as the device is free."""
    first = lease([ONE], wait_s=0, label="the first")
    first.__enter__()
    rounds = []

    def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) == 3:
            first.__exit__(None, None, None)

    with caplog.at_level(logging.WARNING, "mtexp.leases"), lease([ONE], wait_s=60, label="b", sleep=sleep) as device:
        assert device is ONE

    assert len(rounds) == 3
    assert [record.getMessage().count("'the first'") for record in caplog.records] == [1]


def test_lease_ends_with_an_error_inside():
    """A run that fails does not keep the device."""
    with pytest.raises(KeyError), lease([ONE], wait_s=0, label="a"):
        raise KeyError

    with lease([ONE], wait_s=0, label="b") as device:
        assert device is ONE


def test_mig_instances_of_one_gpu_exclude_each_other():
    """Instances share power and clocks, so the lease is of their GPU."""
    with lease([MIG_A], wait_s=0, label="a"), pytest.raises(LeaseBusy):
        _busy(ONE)


def test_no_candidate_is_an_error_with_a_remedy():
    """Without a device there is nothing to wait for."""
    with pytest.raises(HostError, match="runtime=cpu"), lease([], wait_s=0, label="a"):
        pass


def test_files_are_open_to_every_user(tmp_path):
    """Another user of the host can take the lease next: directory and files are writable for all."""
    with lease([ONE], wait_s=0, label="a"):
        modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in (tmp_path / "lease").iterdir()}
        note = json.loads((tmp_path / "lease/GPU-1.json").read_text())

    assert modes == {"GPU-1.lock": "0o666", "GPU-1.json": "0o666"}
    assert (tmp_path / "lease").stat().st_mode & 0o7777 == 0o1777
    assert note["label"] == "a"
    assert (tmp_path / "lease/GPU-1.json").read_text() == ""


def test_unusable_directory_is_named(tmp_path, monkeypatch):
    """A lease directory that cannot be made is reported with the variable that moves it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MTEXP_LEASE_DIR", str(tmp_path / "file"))

    with pytest.raises(HostError, match="MTEXP_LEASE_DIR"), lease([ONE], wait_s=0, label="a"):
        pass


@pytest.mark.parametrize("theirs", [".", "GPU-1.lock"])
def test_a_lease_of_another_user_is_refused_before_anything_starts(monkeypatch, capsys, theirs):
    """The directory, or a lock in it, that this user may not write: said once, not once for each run."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders may not be entered by another user
        folder = Path(name)
        (folder / "GPU-1.lock").touch()
        (folder / "GPU-1.lock").chmod(0o666)
        folder.chmod(0o1777)
        monkeypatch.setenv("MTEXP_LEASE_DIR", name)
        with an_ordinary_user():
            assert can_lease()
        (folder / theirs).chmod(0o555)
        monkeypatch.setattr(Path, "chmod", lambda *arguments: None)  # root's directory stays as it is
        with an_ordinary_user():
            assert not can_lease()
        assert str(folder / theirs) in capsys.readouterr().err


@pytest.mark.process
def test_killed_holder_frees_the_device():
    """SIGKILL of a run leaves no lease behind."""
    program = (
        "import sys; from mtexp.host import Device; from mtexp.leases import lease\n"
        "with lease([Device('gpu', 0, 'GPU-1', 'x', 1)], wait_s=0, label='victim'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LeaseBusy, match="victim"):
            _busy(ONE)
    finally:
        holder.kill()
        holder.communicate()

    with lease([ONE], wait_s=0, label="next") as device:
        assert device is ONE
