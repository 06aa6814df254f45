"""Stores of another user: refused in the plan where they cannot be written, read all the same."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mtexp.errors import TrackingError
from mtexp.spec import TrackingSpec
from mtexp.testing.records import stored
from mtexp.tracking.mlflow_writer import LOCK
from mtexp.tracking.store import check_store, open_store, prepare
from mtexp.tracking.upload import PENDING, log_or_defer, mark_pending
from mtexp.tracking.uri import sqlite_path
from tests.other_user import an_ordinary_user


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


def test_a_record_of_another_user_can_be_sent(
    tmp_path: Path, tracking: TrackingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one on a read-only disk: without a lock in its folder, and its marker stays for its owner."""
    stored(tmp_path / "run")
    mark_pending(tmp_path / "run")
    (tmp_path / "run" / LOCK).mkdir()  # not even root can open it for writing
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: tmp_path / "run" not in Path(path).parents and may(path, mode))
    remove = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **options: _remove(remove, path, **options))
    assert log_or_defer(tmp_path / "run", tracking).run_id
    assert (tmp_path / "run" / PENDING).is_file()


def _remove(remove: Callable[..., None], path: Path, **options: bool) -> None:
    if path.name == PENDING:
        raise PermissionError(13, "Permission denied", str(path))
    remove(path, **options)
