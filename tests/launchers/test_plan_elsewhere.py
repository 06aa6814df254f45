"""A sweep for a cluster is planned on a host that has no GPU."""

from __future__ import annotations

import pytest

from mtexp.config.composer import Composer
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import Plan, plan
from mtexp.config.problems import Refused

SWEEP = ("-m", "mix=pair,bert_base*4", "runtime=gpu", "mps_settings=half,disabled", "execution=cuda_graph")


def _plan(*argv: str) -> Plan:
    return plan(argv, hardware=lambda: hardware_of(None))


def test_a_login_node_needs_no_gpu() -> None:
    """Slurm finds the GPU: here the points are only checked for what does not depend on it."""
    planned = _plan(*SWEEP, "hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=1")
    assert [point.spec.runtime for point in planned.points] == ["gpu"] * 4
    assert not any(point.spec.device or point.spec.shrunk for point in planned.points)
    assert not planned.serial


def test_mistakes_are_still_found_there() -> None:
    """What is wrong on every host is refused before anything is submitted."""
    with pytest.raises(Refused, match="batch_size=0"):
        _plan(*SWEEP, "hydra/launcher=submitit_slurm", "workload.batch_size=8,0")


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("ray", "ray"), ("submitit_slurm", "slurm"), ("submitit_local", "slurm"), ("joblib", "joblib")],
)
def test_a_launcher_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, launcher: str, extra: str) -> None:
    """Refused with the command that installs it."""
    monkeypatch.setattr(Composer, "options", lambda self, group: ["basic"])
    with pytest.raises(Refused, match=rf"pip install -e '\.\[{extra}\]'"):
        _plan(*SWEEP, f"hydra/launcher={launcher}")


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_launcher_of_this_host_needs_its_gpu(launcher: str) -> None:
    """Where the points run here, a GPU that is not here is refused here."""
    with pytest.raises(Refused, match="no GPU was found here"):
        _plan(*SWEEP, f"hydra/launcher={launcher}")
