"""What a tenant writes is what the parent reads, while it runs and after either of them has died."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtexp.tenant.buffers import COLUMNS, Board, SampleBuffer

instants = st.integers(1, 2**62)
rows = st.lists(st.tuples(*[instants] * len(COLUMNS)), max_size=30)


@given(rows, st.integers(0, 30))
def test_every_row_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[int, ...]], warm: int
) -> None:
    """Through the file, whatever was stored; the first rows are warm-up."""
    path = tmp_path_factory.mktemp("buffer") / "samples.bin"
    parent = SampleBuffer(path, 40, create=True)
    child = SampleBuffer(path)
    for row, entry in enumerate(values):
        for name, value in zip(COLUMNS, entry, strict=True):
            child.columns[name][row] = value
    child.header[0], child.header[1] = len(values), min(warm, len(values))
    samples = parent.samples()
    assert len(samples) == len(values)
    for i, name in enumerate(COLUMNS):
        assert getattr(samples, name).tolist() == [entry[i] for entry in values]
    assert np.count_nonzero(samples.phase == 0) == min(warm, len(values))


def test_what_was_not_stored_is_none(tmp_path: Path) -> None:
    """No arrival: the start; no gpu time: -1; no first token: 0."""
    buffer = SampleBuffer(tmp_path / "s.bin", 4, create=True)
    buffer.prefault()
    buffer.columns["start_ns"][0], buffer.columns["end_ns"][0], buffer.header[0] = 5, 9, 1
    samples = buffer.samples()
    assert (samples.arrival_ns[0], samples.gpu_time_ns[0], samples.first_token_ns[0]) == (5, -1, 0)
    assert not samples.open_loop


def test_samples_are_a_copy(tmp_path: Path) -> None:
    """What is read does not change under the reader's hands."""
    buffer = SampleBuffer(tmp_path / "s.bin", 4, create=True)
    buffer.columns["end_ns"][0], buffer.header[0] = 7, 1
    samples = buffer.samples()
    buffer.columns["end_ns"][0] = 8
    assert samples.end_ns[0] == 7


def test_the_file_knows_its_capacity(tmp_path: Path) -> None:
    """The child opens it by its path alone; nobody's file is overwritten."""
    SampleBuffer(tmp_path / "s.bin", 123, create=True)
    assert SampleBuffer(tmp_path / "s.bin").capacity == 123
    with pytest.raises(FileExistsError):
        SampleBuffer(tmp_path / "s.bin", 1, create=True)


def test_tenants_have_words_of_their_own_on_the_board(tmp_path: Path) -> None:
    """Progress, done and looks of one are not another's; the stop flag is everybody's."""
    parent = Board(tmp_path / "b.bin", 3, create=True)
    child = Board(tmp_path / "b.bin", 3)
    child.slot(1)[0] = 5
    child.slot(1)[1] = 1
    child.slot(2)[2] = 4
    assert [parent.measured(i) for i in range(3)] == [0, 5, 0]
    assert [parent.done(i) for i in range(3)] == [False, True, False]
    assert [parent.heartbeat(i) for i in range(3)] == [0, 5, 4]
    assert not child.words[0]
    parent.stop()
    assert child.words[0]
    assert [parent.measured(i) for i in range(3)] == [0, 5, 0]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may grow beyond 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_an_error_at_once(tmp_path: Path) -> None:
    """The room is taken when the buffer is made: a hole in the file would kill whoever writes to it."""
    with pytest.raises(OSError, match="large"):
        SampleBuffer(tmp_path / "s.bin", 10_000, create=True)
    SampleBuffer(tmp_path / "t.bin", 100, create=True)


def test_unused_room_goes_back_to_the_disk_and_no_row_with_it(tmp_path: Path) -> None:
    """A page or two a column stays; what was stored stays as it was."""
    path = tmp_path / "s.bin"
    buffer = SampleBuffer(path, 100_000, create=True)
    for name in COLUMNS:
        for row in range(700):
            buffer.columns[name][row] = row + 1
    buffer.header[0] = 700
    before, taken = buffer.samples(), path.stat().st_blocks * 512
    if not SampleBuffer(path).release_unused():
        pytest.skip("this file system has no holes")
    assert path.stat().st_blocks * 512 < taken / 20
    after = SampleBuffer(path).samples()
    for name in COLUMNS:
        assert (getattr(after, name) == getattr(before, name)).all()
