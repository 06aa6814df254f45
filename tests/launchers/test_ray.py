"""A sweep on a real Ray of this host, through Hydra's launcher."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launchers.launcher_helpers import TWO_POINTS, Place, check_two_points, required

pytestmark = [pytest.mark.ray, pytest.mark.process]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths may have 107 characters; afterwards none of its processes is left."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        required("MTEXP_REQUIRE_RAY", "Ray and its launcher are not installed (pip install -e '.[ray]')")
    folder = Path(tempfile.mkdtemp(prefix="mtexp-ray-", dir="/tmp"))
    before = set(psutil.pids())
    yield folder
    started = [process for process in psutil.process_iter(["cmdline"]) if process.pid not in before]
    left = [process for process in started if str(folder) in " ".join(process.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    assert not alive


def test_a_sweep_with_ray(short_folder: Path, place: Place) -> None:
    """hydra/launcher=ray: the runs are Ray's tasks, share one baseline and one MLflow file."""
    variables = {"RAY_TMPDIR": str(short_folder), "HOME": str(place.folder), "RAY_USAGE_STATS_ENABLED": "0"}
    place = dataclasses.replace(place, variables=variables)
    done = place.run(*TWO_POINTS, "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")
    check_two_points(place, done)
    assert "Started a local Ray instance" in done.stdout + done.stderr
