"""Limits of control groups, in both versions of the kernel's interface, on a host and in a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from mtexp import cgroup

UNLIMITED_V1 = str(2**63 - 4096)
V1 = "9:name=systemd:/\n4:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n0::/\n"
V2 = "0::/user.slice/job_7\n"


def _host(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "memory", "cpus"),
    [
        (V2, {"user.slice/job_7/memory.max": "1073741824\n", "user.slice/job_7/cpu.max": "150000 100000\n"}, 1024, 1.5),
        (V2, {"user.slice/job_7/memory.max": "max\n", "user.slice/job_7/cpu.max": "max 100000\n"}, None, None),
        (V2, {"user.slice/memory.max": "1048576\n", "user.slice/job_7/memory.max": "2097152\n"}, 1, None),
        ("0::/\n", {"memory.max": "2147483648\n", "cpu.max": "50000 100000\n"}, 2048, 0.5),
        ("0::/../../elsewhere\n", {"memory.max": "2147483648\n"}, 2048, None),
        (V1, {"memory/memory.limit_in_bytes": "1073741824\n"}, 1024, None),
        (V1, {"memory/docker/ab/memory.limit_in_bytes": f"{UNLIMITED_V1}\n"}, None, None),
        (
            V1.replace("cpu,cpuacct", "cpu"),
            {"cpu/docker/ab/cpu.cfs_quota_us": "200000", "cpu/docker/ab/cpu.cfs_period_us": "100000"},
            None,
            2.0,
        ),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None, 2.0),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None, None),
        ("", {}, None, None),
        ("nonsense", {"cpu.max": "nonsense"}, None, None),
    ],
)
def test_limits(tmp_path: Path, groups: str, files: dict[str, str], memory: int | None, cpus: float | None) -> None:
    root = _host(tmp_path, groups, files)
    assert cgroup.memory_limit_mib(root) == memory
    assert cgroup.cpu_limit(root) == cpus
    total = psutil.virtual_memory().total // 2**20
    assert cgroup.memory_mib(root) == min(total, memory or total)
