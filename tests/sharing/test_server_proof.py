"""Servers are proven from outside: on the device, clients of the daemon or not; what cannot be seen is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sharing_helpers import facts_of, make_spec
from test_sharing_proof import seen

from mtexp.served import ServerSpec
from mtexp.sharing.control import MpsControl
from mtexp.sharing.mps import ManagedMps
from mtexp.sharing.time_slicing import TimeSlicing
from mtexp.spec import MpsLimits, RunSpec


def spec_of(mps_mode: str, limit: float = 0.0) -> RunSpec:
    """A tenant of ours, t0, and a server, t1."""
    spec = make_spec(MpsLimits(), MpsLimits(active_thread_pct=limit), mps_mode=mps_mode)
    own, server = spec.tenants
    model = replace(server.model, role="server", server=ServerSpec(command=("x",), url="http://127.0.0.1/x"))
    return replace(spec, tenants=(own, replace(server, model=model)))


def server_facts(nvml: dict[str, list[str]] | None, cuda: tuple[int, ...] = (12,)) -> dict[str, Any]:
    """A client with pid 5 and its server with pids 11 and 12."""
    facts: dict[str, Any] = {"pid": 5, "server_pid": 11, "server_pids": [11, 12], "server_cuda_pids": list(cuda)}
    return facts if nvml is None else facts | {"server_nvml": nvml}


def under_mps(
    device: Any, folder: Path, server: dict[str, Any], clients: tuple[int, ...], limit: float = 0.0
) -> set[str]:
    mode = ManagedMps(spec_of("managed", limit), device, folder)
    mode._control = MpsControl("unused", {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mtexp-0-00000000/pipe"})
    facts = {"t0": facts_of(1), "t1": server}
    proof, findings = mode.prove(facts, facts, seen(*clients), seen(*clients))
    assert proof["proven"] == (not any(finding.level == "invalid" for finding in findings))
    return {finding.code for finding in findings}


@pytest.mark.parametrize(
    ("server", "clients", "codes"),
    [
        (server_facts({"12": ["mps"]}), (1, 12), set()),
        (server_facts({"11": ["mps"], "12": ["mps"]}), (1, 12), {"mps-client-missing"}),
        (server_facts({"12": ["mps"]}), (1,), {"mps-client-missing"}),
        (server_facts(None), (1, 12), {"server-device-unproven"}),
        (server_facts(None, ()), (1,), {"server-not-on-device"}),
        (server_facts({"12": ["mps"]}), (1, 12, 99), {"mps-foreign-client"}),
    ],
)
def test_every_process_of_a_server_on_the_device_is_a_client(
    device: Any, tmp_path: Path, server: dict[str, Any], clients: tuple[int, ...], codes: set[str]
) -> None:
    """Those that NVML lists, else those that use CUDA; the client of the server is none."""
    assert under_mps(device, tmp_path, server, clients) == {"server-unseen", *codes}


def test_a_limit_of_a_server_cannot_be_seen(device: Any, tmp_path: Path) -> None:
    """It is a warning, not a proof."""
    found = under_mps(device, tmp_path, server_facts({"12": ["mps"]}), (1, 12), limit=50)
    assert "server-limit-unproven" in found


@pytest.mark.parametrize(("kind", "codes"), [("compute", set()), ("mps", {"mps-not-expected"})])
def test_under_time_slicing_no_process_of_a_server_is_a_client(
    device: Any, tmp_path: Path, kind: str, codes: set[str]
) -> None:
    """NVML says what kind of process it is."""
    mode = TimeSlicing(spec_of("disabled"), device, tmp_path)
    facts = {"t0": facts_of(1, mps_enabled=0), "t1": server_facts({"12": [kind]})}
    _, findings = mode.prove(facts, facts, {}, {})
    assert {finding.code for finding in findings} == {"server-unseen", *codes}
