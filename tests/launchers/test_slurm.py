"""A sweep as an array of a real Slurm: one node on this host, started here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from tests.launchers.launcher_helpers import TWO_POINTS, Place, check_two_points
from tests.launchers.slurm_cluster import slurm_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.process]

SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=5")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


def test_a_sweep_is_one_array(slurm: dict[str, str], place: Place) -> None:
    """Both points run as tasks of one array, at once; the second takes the baseline that the first has measured."""
    place = dataclasses.replace(place, variables=slurm)
    done = place.run(*TWO_POINTS, *SLURM)
    check_two_points(place, done)
    folder = place.folder / "multirun" / "two"
    (script,) = (folder / ".submitit").glob("*/*_submission.sh")
    assert "#SBATCH --array=0-1" in script.read_text()


def test_a_point_that_fails_in_its_job(slurm: dict[str, str], place: Place) -> None:
    """The other goes on; the summary and the exit code say it; resume=true, here without Slurm, runs only that one."""
    place = dataclasses.replace(place, variables=slurm)
    points = [text for text in TWO_POINTS if not text.startswith(("mix=", "measure.iterations="))]
    points += ["mix=bert_base", "baseline=skip", "deadlines.measure_s=3"]
    points += ["measure.iterations=70,100000", "measure.max_iterations=110000"]
    done = place.run(*points, *SLURM)
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stdout
    assert sorted(run.info.status for run in place.runs("mix")) == ["FAILED", "FINISHED"]
    again = place.run(*points, "resume=true")
    assert again.returncode == 1
    assert again.stdout.count("done before, skipped") == 1
    assert sorted(run.info.status for run in place.runs("mix")) == ["FAILED", "FAILED", "FINISHED"]
