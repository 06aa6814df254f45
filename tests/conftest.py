"""Which tests run: those for a GPU, a cluster or a server only when ``-m`` names them; which of the others are slow."""

from __future__ import annotations

import re

import hypothesis
import pytest

hypothesis.settings.register_profile("quick", max_examples=20)

ON_REQUEST = ("gpu", "slurm", "postgres", "ray")
COMMAND_LINES = {"workplace", "place"}
"""Fixtures of tests that run whole command lines with real tenants: seconds each."""

SLOW = (
    *("tests/launchers/", "tests/benchmarks/", "tests/package/", "tests/fuzz/test_fuzz_inputs.py"),
    *(
        "tests/profiling/test_profile_pass.py",
        "tests/analysis/test_analysis_report.py",
        "tests/tracking/test_server.py",
    ),
    *(
        "tests/tracking/test_upload_process.py",
        "tests/terminal/test_capacity_command.py",
        "tests/run/test_failed_runs.py",
    ),
    *("tests/launch/test_group_failures.py", "tests/sharing/test_sharing_lifecycle.py::test_parent_killed"),
    *("tests/tracking/test_store.py::test_eight_processes", "tests/tracking/test_store.py::test_a_file_that_another"),
    *(
        "tests/config/test_conf_files.py::test_every_experiment",
        "tests/config/test_conf_files.py::test_the_report_preset",
    ),
)
"""Beginnings of the names of other tests that take more than about a second; ``--durations=50`` finds more."""


def pytest_configure(config: pytest.Config) -> None:
    if "not slow" in (config.getoption("markexpr") or ""):  # before modules with settings of their own are imported
        hypothesis.settings.load_profile("quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = set(re.findall(r"\w+", config.getoption("markexpr") or ""))
    for item in items:
        runs_commands = COMMAND_LINES & set(getattr(item, "fixturenames", ()))
        if runs_commands or item.nodeid.startswith(SLOW):
            item.add_marker("slow")
    left_out = [
        item for item in items if any(item.get_closest_marker(name) for name in ON_REQUEST if name not in asked)
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]
