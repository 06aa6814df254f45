"""Files and folders that this user may not enter: refused as those that are not there, and never a traceback.

Before Python 3.14, ``Path.is_file`` and its kin raise PermissionError for them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analysis import data
from mtexp.config.plan import plan
from mtexp.errors import MtexpError
from mtexp.tracking import ui
from mtexp.tracking.reach import answers
from mtexp.tracking.sweeps import _bytes
from tests.other_user import an_ordinary_user


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder that nobody may enter but root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "private"
        folder.mkdir()
        folder.chmod(0)
        yield folder
        folder.chmod(0o755)


def _plan(*arguments: str) -> Callable[[Path], object]:
    return lambda folder: plan(["runtime=cpu", *(text.format(folder) for text in arguments)])


@pytest.mark.parametrize(
    "use",
    [
        _plan("mix=solo", "arrival=trace", "arrival.trace={}/x.csv"),
        _plan("mix=folder:{}/model"),
        _plan("mix=solo", "--config-dir", "{}/conf"),
        lambda folder: data.load(records=folder / "records"),
    ],
    ids=["trace", "model", "configuration", "records"],
)
def test_what_may_not_be_entered_is_refused(private: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(MtexpError):
        use(private.parent / "not-there")  # imports what it needs, which may be root's
    with an_ordinary_user(), pytest.raises(MtexpError):
        use(private)


def test_a_store_that_may_not_be_entered_is_one_line(private: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.main(["--uri", f"sqlite:///{private.parent}/not-there/mlflow.db"]) == 2
    uri = f"sqlite:///{private}/mlflow.db"
    with an_ordinary_user():
        assert not answers(uri, "mtexp")
        assert ui.main(["--uri", uri]) == 2
        assert not _bytes((private / "artifacts").as_uri())
    assert len(capsys.readouterr().err.splitlines()) == 2
