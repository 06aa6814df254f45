"""The package as a user installs it: an sdist, the wheel made from it, a fresh environment, an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.process]

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "mtexp", "hydra_plugins", "conf", "analysis")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
"""What pip runs, in the folder of the sources."""
SMALL = ("runtime=cpu", "workload.batch_size=1", "workload.seq_len=8", "measure.iterations=20", "measure.warmup=2")


def _run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a program as outside of a checkout; return what it printed, stderr after stdout."""
    hidden = ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """Built from a copy: a build leaves files beside its sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    _run(sys.executable, "-c", BUILD.format("sdist"), copy / "dist", cwd=copy)
    (made,) = (copy / "dist").glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Made from the sdist, as pip does for a user of an index without a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(sdist, folder)
    (sources,) = folder.iterdir()
    _run(sys.executable, "-c", BUILD.format("wheel"), folder, cwd=sources)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory) -> Path:
    """The bin/ of an environment with the wheel; other packages are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT.parent)
    python = folder / "bin" / "python"
    site = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    quietly = ("-q", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    _run(sys.executable, "-m", "pip", "--python", python, "install", *quietly, wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_has_what_a_run_needs_and_claims_no_common_name(wheel, sdist):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"mtexp", "hydra_plugins"}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    files |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "analysis").rglob("*.py")}
    files |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "analysis" / "templates").iterdir()}
    assert {f"mtexp/{name}" for name in files} | {"mtexp/py.typed", "hydra_plugins/mtexp_capacity.py"} <= set(names)
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]


def test_mtexp_runs_from_an_empty_folder(commands, tmp_path):
    run = (commands / "mtexp", "run", "mix=bert_base", "baseline=skip", *SMALL)
    out = _run(*run, cwd=tmp_path)
    assert "VALID" in out
    assert "To look at them:\nmtexp ui --uri" in out
    assert len(list(tmp_path.glob("outputs/*/record.json"))) == 1
    assert "bert_base" in _run(commands / "mtexp", "fetch", cwd=tmp_path)
    (tmp_path / "other").mkdir()
    assert "Run something first (mtexp run)" in _run(commands / "mtexp", "fetch", cwd=tmp_path / "other", code=2)


def test_a_search_for_a_capacity_finds_its_sweeper(commands, tmp_path):
    search = ("mix=bert_base", "+experiment=capacity", *SMALL, "baseline=require")
    out = _run(commands / "mtexp", "run", "-m", *search, "hydra/sweeper=nonsense", cwd=tmp_path, code=2)
    assert "capacity" in out  # among the choices that the plugin adds


def test_the_module_is_the_command_and_analysis_is_part_of_the_package(commands, tmp_path):
    assert "mtexp COMMAND" in _run(commands / "python", "-m", "mtexp", "-h", cwd=tmp_path)
    _run(commands / "python", "-c", "import mtexp.analysis.report", cwd=tmp_path)
    assert "No module named" in _run(commands / "python", "-c", "import analysis", cwd=tmp_path, code=1)
