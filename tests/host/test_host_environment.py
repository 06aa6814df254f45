"""What the environment capture records, and what it must not."""

import json
import os
import shutil
import subprocess

import pytest

from mtexp.host import Device, cpu_device, environment

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)


def test_cpu_environment_names_host_python_and_packages():
    """On the CPU the record knows where and with what it ran, and claims nothing about a GPU."""
    found = environment(cpu_device())

    assert {"host", "kernel", "python_version", "mtexp_version", "torch_version", "cpu_count"} <= found.keys()
    assert not [key for key in found if key.startswith("gpu")]
    assert found["packages"]["torch"] == found["torch_version"]


def test_gpu_environment_names_the_gpu():
    """The keys that MLflow tags and the baseline hash read are there."""
    found = environment(GPU)

    assert (found["gpu_name"], found["gpu_uuid"], found["gpu_memory_mib"]) == ("NVIDIA H200", "GPU-1", 143_771)
    assert "gpu_parent_uuid" not in found


def test_unknown_is_absent_and_the_rest_is_json():
    """No key has an empty or unknown value, and all of it can be written."""
    found = environment(Device("gpu", 0, "GPU-1", "x", 1, None))

    assert "gpu_sm_count" not in found
    assert all(value is not None and value != "" for value in found.values())
    assert json.loads(json.dumps(found)) == found


def test_no_secret_of_the_environment_is_recorded(monkeypatch):
    """Only variables that change speed are recorded; a token is not."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    found = environment(cpu_device())

    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert "hunter2-secret" not in json.dumps(found)


@pytest.fixture(name="repository")
def _repository(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    return tmp_path


def test_revision_and_uncommitted_change(repository):
    """A result says which commit made it, and whether that commit is the whole truth."""
    clean = environment(cpu_device(), project=repository)
    (repository / "file").write_text("two")
    dirty = environment(cpu_device(), project=repository)

    assert len(clean["git_commit"]) == 40
    assert (clean["git_dirty"], dirty["git_dirty"]) == (False, True)


def test_no_repository_no_revision(tmp_path):
    """Installed from a wheel there is no revision, and none is invented."""
    found = environment(cpu_device(), project=tmp_path)

    assert not {"git_commit", "git_dirty"} & found.keys()


def test_a_repository_that_the_project_only_lies_in_is_not_its_own(repository):
    """A virtual environment in a user's repository: the record would name a commit of other code."""
    (repository / ".venv").mkdir()
    found = environment(cpu_device(), project=repository / ".venv")

    assert not {"git_commit", "git_dirty"} & found.keys()


def test_a_variable_of_another_repository_changes_no_revision(repository, tmp_path_factory, monkeypatch):
    """git sets GIT_DIR for its hooks, from which a run may be started."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other")))

    assert len(environment(cpu_device(), project=repository)["git_commit"]) == 40


def test_asking_for_the_revision_runs_no_program_of_the_user_or_the_repository(repository, tmp_path, monkeypatch):
    """A git earlier on the PATH, and what the repository's configuration names."""
    programs = tmp_path / "programs"
    programs.mkdir()
    git = shutil.which("git")
    for name in ("git", "monitor", "post-index-change"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\nexit 1\n")
        (programs / name).chmod(0o755)
    for key, value in {"core.fsmonitor": programs / "monitor", "core.hooksPath": programs}.items():
        subprocess.run([git, "-C", repository, "config", key, value], check=True)
    (repository / "file").touch()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    assert environment(cpu_device(), project=repository)["git_dirty"] is False
    assert not list(tmp_path.glob("ran-*"))
    subprocess.run([git, "-C", repository, "status"], check=True, capture_output=True)
    assert (tmp_path / "ran-monitor").exists()
