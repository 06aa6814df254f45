"""Stores of another user: refused in the plan where they cannot be written, read all the same."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec
from mtexp.tracking.store import check_store, open_store, prepare
from mtexp.tracking.uri import sqlite_path


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Root, who may write everything, is nobody within the block; whoever else runs the tests stays who he is."""
    if root := not os.getuid():
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


@pytest.mark.parametrize("theirs", ["mlflow.db", "mlartifacts", ".mlflow.db.open.lock", ".mlflow.db.write.lock"])
def test_a_store_of_another_user_is_refused_in_the_plan(theirs: str) -> None:
    """The folder may be written, but not what root's runs have left in it: not found out after the runs."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders may not be entered by another user
        folder = Path(name)
        folder.chmod(0o777)
        for path in (folder / "mlflow.db", folder / theirs):
            path.mkdir(exist_ok=True) if path.name == "mlartifacts" else path.touch()
            path.chmod(0o666 | 0o111 * path.is_dir())
        (folder / theirs).chmod(0o444)
        with an_ordinary_user(), pytest.raises(TrackingError, match=f"{theirs} may not be written by this user"):
            check_store(TrackingSpec(uri=f"sqlite:///{folder}/mlflow.db"))
        (folder / theirs).chmod(0o777)
        with an_ordinary_user():
            check_store(TrackingSpec(uri=f"sqlite:///{folder}/mlflow.db"))


def test_a_store_of_another_user_can_be_read(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that both may write, whose lock file is the other's: who only reads needs no lock."""
    prepare(tracking)
    file = sqlite_path(tracking.uri)
    assert file is not None
    locks = sorted(file.parent.glob(f".{file.name}.*.lock"))
    assert [stat.S_IMODE(lock.stat().st_mode) for lock in locks] == [0o666, 0o666]  # whoever comes first
    for lock in locks:
        lock.unlink()
        lock.mkdir()  # not even root can open it for writing
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in locks and may(path, mode))
    with open_store(tracking, write=False) as store:
        assert store.experiment_id
