"""``sharing=streams`` from the command line to the record: tenants are threads of one process."""

from __future__ import annotations

import pytest

from tests.run.run_helpers import Workplace

pytestmark = pytest.mark.process


def test_threads_of_one_process_are_proven(workplace: Workplace) -> None:
    """One pid, a thread each: nothing about them makes the run INVALID."""
    ran = workplace.run("mix=pair", "sharing=streams", "baseline=skip", "sweep=s")
    assert ran.code == 0
    record = workplace.records("outputs/s")["."]
    assert "thread_id-shared" not in {finding.code for finding in record.findings}
    facts = [tenant.facts_after for tenant in record.tenants]
    assert len({known["pid"] for known in facts}) == 1
    assert len({known["thread_id"] for known in facts}) == 2
    assert all(0 <= tenant.metrics["lock_wait_pct"] <= 100 for tenant in record.tenants)
    assert "interpreter lock" in ran.out
