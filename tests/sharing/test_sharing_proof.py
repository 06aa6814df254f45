"""A mode is proven, or the run is INVALID with a sentence that says what was found, expected and to be done."""

import copy
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharing_helpers import UUID, facts_of, make_spec

from mtexp.sharing import proof
from mtexp.sharing.control import MpsControl
from mtexp.sharing.mps import ManagedMps
from mtexp.spec import MpsLimits

MEASURED = {100: 132, 50: 66, 20: 26, 13: 16, 2.08: 8}


@pytest.mark.parametrize(("pct", "sms"), MEASURED.items())
def test_measured_sm_counts_are_accepted(pct, sms):
    """What an H200 with 132 SMs gave is what is expected."""
    assert sms in proof.expected_sm_counts(132, pct)


@given(total=st.integers(4, 200), pct=st.floats(0.5, 99.9))
def test_missing_cap_is_never_accepted(total, pct):
    """A tenant that sees the whole device was not capped, whatever the percentage below 100."""
    expected = proof.expected_sm_counts(total, pct)
    assert total not in expected
    assert len(expected) >= 1


@given(total=st.integers(16, 200), share=st.integers(2, 8))
def test_equal_share_is_accepted(total, share):
    """100/n percent rounded down to two SMs is accepted, however the division comes out."""
    rounded_down = max(2, total // share // 2 * 2)
    assert rounded_down in proof.expected_sm_counts(total, float(f"{100 / share:.10g}"))


@pytest.mark.parametrize(("asked", "other"), [(50, 33), (25, 33), (13, 20), (50, 100), (100, 50)])
def test_wrong_cap_is_rejected(asked, other):
    """The SM count of another percentage is not taken for the one asked for."""
    sms = MEASURED.get(other, 132 * other // 100 // 2 * 2)
    assert sms not in proof.expected_sm_counts(132, asked)


def seen(*pids: int, **changes: object) -> dict:
    """What a healthy daemon shows."""
    clients = [
        {"pid": pid, "id": "0", "server": 77, "device": UUID[:22], "namespace": "4026531836", "command": "python"}
        for pid in pids
    ]
    servers = [{"pid": 77, "status": "ACTIVE", "active_thread_pct": 100.0, "uid": 0}]
    state = {"servers": servers, "clients": clients, "default_active_thread_pct": 100.0, "compute_mode": "default"}
    return state | changes


@pytest.fixture(name="prove")
def _prove(device, tmp_path):
    """Prove an MPS run of two tenants at 50 and 13 %, pids 1 and 2, with changes to what was found."""
    mode = ManagedMps(make_spec(MpsLimits(active_thread_pct=50), MpsLimits(active_thread_pct=13)), device, tmp_path)
    mode._control = MpsControl("unused", {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mtexp-0-00000000/pipe"})
    healthy = {"t0": facts_of(1, sm_count=66), "t1": facts_of(2, sm_count=16)}

    def prove(before=None, after=None, observed_before=None, observed_after=None):
        facts = copy.deepcopy((healthy, healthy))
        for found, changes in zip(facts, (before or {}, after or {}), strict=True):
            for tenant, change in changes.items():
                found[tenant] = found[tenant] | change
        states = [state if state is not None else seen(1, 2) for state in (observed_before, observed_after)]
        return mode.prove(*facts, *states)

    return prove


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def test_healthy_run_is_proven(prove):
    """Everything in place: no finding, and the record holds the evidence of each tenant before and after."""
    record, findings = prove()
    assert findings == ()
    assert record["proven"] is True
    assert record["mode"] == "mps"
    assert record["tenants"]["t1"]["before"]["sm_count"] == 16
    assert record["tenants"]["t1"]["active_thread_pct"] == 13.0
    assert record["observed_after"]["servers"][0]["status"] == "ACTIVE"


@pytest.mark.parametrize("enabled", [0, None])
def test_silently_without_mps(prove, enabled):
    """A tenant that CUDA let run without MPS makes the run INVALID, naming it, what was found and what to do."""
    record, findings = prove(before={"t1": {"mps_enabled": enabled}}, after={"t1": {"mps_enabled": enabled}})
    (finding,) = findings
    assert (finding.level, finding.code, finding.tenant) == ("invalid", "mps-not-enabled", "t1")
    assert "before and after the window" in finding.message
    assert "expected 1" in finding.message
    assert "mps-control.log" in finding.remedy
    assert record["proven"] is False


def test_missing_cap(prove):
    """A tenant that saw the whole GPU though capped at 50 % is not what was asked for."""
    _, (finding,) = prove(after={"t0": {"sm_count": 132}})
    assert finding.code == "sm-count"
    assert "after the window: it saw 132 SMs; expected 62 to 66 of 132" in finding.message


def test_server_percentage_lowers_the_expectation(prove):
    """The lower of the client's and the server's percentage counts."""
    state = seen(1, 2, servers=[{"pid": 77, "status": "ACTIVE", "active_thread_pct": 25.0}])
    _, findings = prove(observed_before=state, observed_after=state)
    assert [(f.code, f.tenant) for f in findings] == [("sm-count", "t0")]


def test_not_in_ps(prove):
    """A tenant that the daemon does not list was not its client."""
    _, (finding,) = prove(observed_after=seen(1))
    assert (finding.code, finding.tenant) == ("mps-client-missing", "t1")


def test_limits_that_cuda_does_not_tell(device, tmp_path):
    """A memory limit and a priority are in the record, and notes say that nothing proves them."""
    limits = (MpsLimits(pinned_memory_limit="4G", priority=1), MpsLimits())
    mode = ManagedMps(make_spec(*limits), device, tmp_path)
    mode._control = MpsControl("unused", {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mtexp-0-00000000/pipe"})
    facts = {"t0": facts_of(1), "t1": facts_of(2)}
    record, findings = mode.prove(facts, facts, seen(1, 2), seen(1, 2))
    assert [(f.level, f.code) for f in findings] == [("note", "mps-limit-untold")] * 2
    assert record["proven"]
    assert (record["tenants"]["t0"]["pinned_memory_limit"], record["tenants"]["t0"]["priority"]) == ("4G", 1)
    assert "priority" not in record["tenants"]["t1"]


def test_foreign_client(prove):
    """Another client of the same server is named by its pid."""
    _, (finding,) = prove(observed_before=seen(1, 2, 99), observed_after=seen(1, 2, 99))
    assert finding.code == "mps-foreign-client"
    assert "pids 99" in finding.message


def test_other_pid_namespace(prove):
    """As many clients as tenants under other pids: said so, and a warning as every tenant has the attribute."""
    state = seen(1001, 1002)
    _, (finding,) = prove(observed_before=state, observed_after=state)
    assert (finding.level, finding.code) == ("warning", "mps-pid-namespace")
    _, findings = prove(before={"t0": {"mps_enabled": 0}}, observed_before=state, observed_after=state)
    assert ("invalid", "mps-pid-namespace") in [(f.level, f.code) for f in findings]


def test_server_replaced_or_faulted(prove):
    """Another server at the end, or one in FAULT, ends the proof."""
    clients = seen(1, 2)["clients"]
    other = seen(servers=[{"pid": 78, "status": "ACTIVE"}], clients=[client | {"server": 78} for client in clients])
    assert codes(prove(observed_after=other)[1]) == ["mps-server-changed"]
    fault = seen(1, 2, servers=[{"pid": 77, "status": "FAULT"}])
    (finding,) = prove(observed_after=fault)[1]
    assert "in state FAULT; expected ACTIVE" in finding.message


def test_daemon_gone(prove):
    """A daemon that no longer answers is one finding, not one for each tenant."""
    _, findings = prove(observed_after={"error": "no MPS daemon answers in /tmp/x"})
    assert codes(findings) == ["mps-daemon-gone"]


def test_compute_mode_changed(prove):
    """Somebody changed the compute mode in the middle."""
    assert codes(prove(observed_after=seen(1, 2, compute_mode="exclusive_process"))[1]) == ["compute-mode-changed"]


def test_tenant_without_facts(prove, device, tmp_path):
    """A tenant that reported nothing is not proven."""
    mode = ManagedMps(make_spec(MpsLimits()), device, tmp_path)
    mode._control = MpsControl("unused", {"CUDA_MPS_PIPE_DIRECTORY": "/x"})
    record, findings = mode.prove({}, {}, seen(), seen())
    assert "facts-missing" in codes(findings)
    assert record["proven"] is False


def test_wrong_device(prove):
    """A tenant on another GPU than the leased one."""
    assert codes(prove(before={"t0": {"gpu_uuid": "GPU-other"}})[1]) == ["wrong-device"]


def test_unknown_total(device, tmp_path):
    """Without the SM count of the whole device a cap is not proven."""
    assert proof.expected_sm_counts(132, 100) == range(132, 133)
    notes = proof.Notes()
    proof.check_sm_cap(notes, "t0", facts_of(1), None, None)
    assert codes(notes.findings()) == ["sm-count-unknown"]


def test_pid_namespace_is_recorded(stub, device, root, tmp_path):
    """The record names our own pid namespace, to compare with the NAMESPACE column."""
    stub()
    with ManagedMps(make_spec(MpsLimits()), device, tmp_path, root=root) as mode:
        assert mode.observe()["pid_namespace"] == str(Path("/proc/self/ns/pid").stat().st_ino)
        assert mode.observe()["uid"] == os.getuid()
