import itertools
import json
import lzma
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtexp.errors import RecordError
from mtexp.profiling import kernels as kernels_module
from mtexp.profiling.kernels import Kernels, TracedTenant, read_nsys_sqlite
from mtexp.profiling.overlap import (
    NO_RANGES_NOTE,
    NO_WINDOW_NOTE,
    TIME_SLICING_NOTE,
    busy_until,
    main,
    measure_overlap,
    merge,
)

MS = 1_000_000
CAPTURE = Path(__file__).parents[1] / "data" / "nsys" / "bert-llama-mps.sqlite.xz"


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("nsys") / "capture.sqlite"
    path.write_bytes(lzma.decompress(CAPTURE.read_bytes()))
    return path


def make(*tenants, skipped=0):
    """Kernels from one list of (start_ms, end_ms) per tenant."""
    rows = sorted((int(s * MS), int(e * MS), i) for i, spans in enumerate(tenants) for s, e in spans)
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    traced = tuple(TracedTenant(pid=100 + i) for i in range(len(tenants)))
    name = np.zeros(len(rows), np.int64)
    return Kernels(table[:, 0], table[:, 1], table[:, 2], name, traced, ("k",), skipped)


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_real_capture_comes_to_the_published_hundredths_of_a_millisecond(capture):
    """BERT-base and Llama-1B under CUDA MPS on an H200, measured independently of this code."""
    overlap = measure_overlap(read_nsys_sqlite(capture))
    assert round(overlap.window_ms, 2) == 728.77
    assert {k: round(ms, 2) for k, ms in overlap.concurrent_ms.items()} == {"0": 558.99, "1": 134.65, "2": 35.13}
    assert [(t.pid, t.kernels) for t in overlap.tenants] == [(574, 9646), (575, 39968)]
    assert overlap.kernel_overlap_pct == pytest.approx(100 * 35.13 / (134.65 + 35.13), abs=0.01)
    assert overlap.gpu_idle_pct == pytest.approx(100 * 558.99 / 728.77, abs=0.01)
    assert "nvjet" in overlap.tenants[0].top_kernels[0]["name"]


def test_a_hand_made_case():
    """Two tenants: 0-10 and 20-30 ms against 5-15 and 25-40 ms, in a window from 5 to 30 ms."""
    overlap = measure_overlap(make([(0, 10), (20, 30)], [(5, 15), (25, 40)]))
    assert overlap.window_ms == 25
    assert overlap.concurrent_ms == {"0": 5.0, "1": 10.0, "2": 10.0}
    assert overlap.kernel_overlap_pct == 50
    assert overlap.gpu_idle_pct == 20
    first, second = overlap.tenants
    assert (first.busy_ms, first.busy_in_window_ms, first.busy_pct) == (20, 15, 60)
    assert (second.busy_ms, second.busy_in_window_ms) == (25, 15)
    assert first.kernel_overlap_pct == second.kernel_overlap_pct == pytest.approx(100 * 10 / 15)
    assert overlap.pairs == ({"pids": [100, 101], "overlap_ms": 10.0, "overlap_pct": pytest.approx(100 * 10 / 15)},)
    assert overlap.gaps == ({"start_ms": 10.0, "duration_ms": 5.0},)


def test_busy_time_is_a_union_not_a_sum():
    """Kernels of one tenant that run at the same time, on two streams, count once."""
    overlap = measure_overlap(make([(0, 10), (2, 8), (10, 12)]))
    assert overlap.tenants[0].busy_ms == 12
    assert overlap.concurrent_ms == {"0": 0.0, "1": 12.0}
    assert overlap.kernel_overlap_pct is None


def test_tenants_that_never_met_have_no_percentages():
    """Without a common window nothing is invented: no overlap of 0 %, but a note."""
    overlap = measure_overlap(make([(0, 1)], [(5, 6)]))
    assert overlap.window_ms == 0
    assert overlap.kernel_overlap_pct is None
    assert overlap.metrics() == {}
    assert "kernel_overlap_pct" not in overlap.to_json()
    assert NO_WINDOW_NOTE in overlap.notes


def test_kernels_without_length_leave_an_idle_window():
    """A window in which kernels took no time at all is all gap."""
    overlap = measure_overlap(make([(0, 0), (10, 10)]))
    assert overlap.concurrent_ms == {"0": 10.0, "1": 0.0}
    assert overlap.gaps == ({"start_ms": 0.0, "duration_ms": 10.0},)


def test_the_reader_is_told_about_time_slicing():
    """Overlapping spans are not concurrency there."""
    assert TIME_SLICING_NOTE in measure_overlap(make([(0, 1)])).notes


spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1])), min_size=1, max_size=9
)


@given(st.lists(spans, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_the_sweep_agrees_with_counting_instant_by_instant(tenants):
    """Against the definition, evaluated in every millisecond cell of the window."""
    overlap = measure_overlap(make(*tenants))
    t0 = max(min(s for s, _ in spans) for spans in tenants)
    t1 = min(max(e for _, e in spans) for spans in tenants)
    cells = range(t0, max(t0, t1))
    busy = [{c for c in cells if any(s <= c < e for s, e in spans)} for spans in tenants]
    level = [sum(c in cell for cell in busy) for c in cells]
    assert overlap.window_ms == max(t1 - t0, 0)
    assert overlap.concurrent_ms == {str(k): float(level.count(k)) for k in range(len(tenants) + 1)}
    assert [t.busy_in_window_ms for t in overlap.tenants] == [len(b) for b in busy]
    for i, tenant in enumerate(overlap.tenants):
        shared = len(busy[i] & set().union(*busy[:i], *busy[i + 1 :]))
        known = len(tenants) > 1 and busy[i]
        assert tenant.kernel_overlap_pct == (pytest.approx(100 * shared / len(busy[i])) if known else None)
    expected = [len(a & b) for a, b in itertools.combinations(busy, 2)] if cells else []
    assert [p["overlap_ms"] for p in overlap.pairs] == expected
    assert sum(g["duration_ms"] for g in measure_overlap(make(*tenants), top=99).gaps) == level.count(0)


@given(spans, st.integers(-5, 90))
def test_busy_until_counts_the_union_before_an_instant(intervals, instant):
    """Also inside an interval, before the first and after the last."""
    table = np.array(sorted(intervals), dtype=np.int64)
    union = merge(table[:, 0], table[:, 1])
    cells = {c for s, e in intervals for c in range(s, e)}
    assert busy_until(union, np.array([instant]))[0] == len([c for c in cells if c < instant])


def test_a_minimal_export_made_by_hand_suffices(export, capsys):
    """start, end, globalPid and a name; rows in any order; --json has the documented keys."""
    export.write([(20, 30, 7, 1), (0, 10, 7, 1), (5, 25, 9, 2)], strings=[(1, "gemm"), (2, "softmax")])
    code, out, err = run(capsys, export.path, "--json")
    data = json.loads(out)
    assert (code, err) == (0, "")
    assert data["window_ms"] == pytest.approx(20e-6)
    assert data["concurrent_ms"] == {"0": 0.0, "1": pytest.approx(10e-6), "2": pytest.approx(10e-6)}
    assert [(t["pid"], t["kernels"], t["busy_ms"]) for t in data["tenants"]] == [(7, 2, 20e-6), (9, 1, 20e-6)]
    assert data["tenants"][0]["top_kernels"][0]["name"] == "gemm"


def test_an_export_without_any_names_still_has_its_times(export):
    """Versions and hands differ in the name columns."""
    kernels = read_nsys_sqlite(export.write([(0, 10, 7, 1)], columns="extra"))
    assert kernels.names == ("(no name)",)


def test_graph_launches_count_as_busy_but_not_as_kernels(export):
    """With graph-level tracing the kernels are missing and a graph stands for them."""
    overlap = measure_overlap(read_nsys_sqlite(export.write([(0, 10, 7, 1)], graphs=[(20, 40, 7), (0, 40, 8)])))
    assert [(t.kernels, t.graphs) for t in overlap.tenants] == [(1, 1), (0, 1)]
    assert overlap.concurrent_ms["2"] == pytest.approx(30e-6)
    only = read_nsys_sqlite(export.path.parent / "capture.sqlite")
    assert only.is_graph.sum() == 2


def test_tenants_are_named_by_nvtx_then_by_process(export):
    """A range's text stands in the event or in StringIds; the measuring phase is cut out on request."""
    export.write(
        [(0, 10, 7, 1), (50, 60, 7, 1), (0, 100, 9, 1)],
        strings=[(1, "k"), (2, "tenant=llama.a|phase=measure")],
        processes=[(7, "python3"), (9, "python3")],
        nvtx=[(40, 90, 7, 2), (0, 5, 7, "tenant=llama.a|iteration=0"), (0, 9, 9, "other")],
    )
    kernels = read_nsys_sqlite(export.path)
    assert [t.name for t in kernels.tenants] == ["llama.a", "python3"]
    assert [t.measured_ns for t in kernels.tenants] == [(40, 90), None]
    instead = measure_overlap(kernels, window="measure")
    assert (instead.window_kind, NO_RANGES_NOTE in instead.notes) == ("kernels", True)
    assert NO_RANGES_NOTE not in measure_overlap(kernels).notes
    both = replace(kernels, tenants=tuple(replace(t, measured_ns=(40, 90)) for t in kernels.tenants))
    overlap = measure_overlap(both, window="measure")
    assert NO_RANGES_NOTE not in overlap.notes
    assert (overlap.window_kind, overlap.window_ms, overlap.concurrent_ms["2"]) == ("measure", 50e-6, 10e-6)


def test_unusable_rows_are_counted_and_said(export):
    """Times that are absent, text, or run backwards, and rows of no process."""
    export.write([(0, 10, 7, 1), (10, 0, 7, 1), (None, 5, 7, 1), ("x", 5, 7, 1), (0, 0, 7, 1), (0, 1.5, 7, 1)])
    kernels = read_nsys_sqlite(export.path)
    assert (len(kernels.start_ns), kernels.skipped) == (1, 5)
    assert any("5 kernel rows" in note for note in measure_overlap(kernels).notes)


def hand_made(path, rows, columns="start INT, end INT, globalPid INT"):
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL ({columns})")
        db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?)", rows)
        db.commit()
    return path


def test_plain_pids_are_tenants_of_their_own(export):
    """Who makes a capture by hand may not know how nsys writes a pid; names are found either way."""
    hand_made(export.path, [(0, 10, 41), (5, 15, 42)])
    export.write(None, processes=[(42, "llama")], nvtx=[(0, 20, 41, "tenant=bert|phase=measure")])
    kernels = read_nsys_sqlite(export.path)
    assert [(t.pid, t.name) for t in kernels.tenants] == [(41, "bert"), (42, "llama")]
    overlap = measure_overlap(kernels)
    assert overlap.concurrent_ms["2"] == pytest.approx(5e-6)
    assert any("plain pids" in note for note in overlap.notes)


def test_pids_that_cannot_be_told_are_said(tmp_path):
    """Where one row is as nsys writes it, small values are no pids: they fall together, which the reader must know."""
    overlap = measure_overlap(read_nsys_sqlite(hand_made(tmp_path / "c", [(0, 9, 41), (0, 9, 42), (0, 9, 7 << 24)])))
    assert [t.pid for t in overlap.tenants] == [0, 7]
    assert any(note.startswith("pid 0 stands for all rows") for note in overlap.notes)
    assert not any("plain pids" in note for note in overlap.notes)


def test_columns_that_are_no_integers_are_named(tmp_path):
    """The cause, and not how tenants are started; also where only some rows are lost to it."""
    real = hand_made(tmp_path / "real", [(0, 9, 7 << 24)], "start REAL, end INT, globalPid TEXT")
    with pytest.raises(RecordError, match=r"1 rows, in which globalPid is text, start is real; .* must be integers\.$"):
        read_nsys_sqlite(real)
    backwards = hand_made(tmp_path / "backwards", [(9, 0, 7 << 24)])
    with pytest.raises(RecordError, match="1 rows, in which end is before start"):
        read_nsys_sqlite(backwards)
    some = hand_made(tmp_path / "some", [(0, 9, 7 << 24), (0.5, 9, 7 << 24)])
    assert "In rows that were left out start is real; only integers are read." in read_nsys_sqlite(some).notes


def test_names_cannot_drive_a_terminal(export):
    """Escape sequences in a capture's strings are replaced."""
    assert read_nsys_sqlite(export.write([(0, 10, 7, 1)], strings=[(1, "a\x1b[2Jb\n")])).names == ("a?[2Jb?",)


def test_the_plain_command_prints_every_figure(capture, capsys):
    """For people: the same figures as text."""
    code, out, _ = run(capsys, capture)
    assert code == 0
    assert "window 728.77 ms" in out
    assert "35.13 ms" in out
    assert "gpu_idle_pct 76.70" in out


def _bad_inputs(tmp_path, export, capture):
    whole = capture.read_bytes()
    made = {
        "not-sqlite": b"hello" * 1000,
        "empty": b"",
        "header-only": whole[:50],
        "truncated": whole[: len(whole) // 2],
        "one-page-short": whole[:-1],
        "scrambled": whole[:100] + bytes(len(whole) - 100),
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    export.write([])
    return [tmp_path / name for name in made] + [export.path, tmp_path, tmp_path / "absent", "bad\0name"]


def test_what_is_no_capture_is_an_error_in_one_line(tmp_path, export, capture, capsys):
    """Not SQLite, truncated, empty, without kernels, a folder, absent: exit code 1, nothing on stdout, no traceback."""
    for path in _bad_inputs(tmp_path, export, capture):
        code, out, err = run(capsys, path, "--json")
        assert (code, out) == (1, ""), path
        assert err.startswith("error: "), path
        assert err.count("\n") == 1, path


def test_a_capture_without_kernel_table_says_what_to_do(export):
    """nsys creates tables only for what it saw: forked tenants leave none."""
    with pytest.raises(RecordError, match=r"no table CUPTI_ACTIVITY_KIND_KERNEL.*fresh interpreters"):
        read_nsys_sqlite(export.write(None, processes=[(1, "a")]))


def test_a_kernel_table_of_another_kind_names_the_missing_column(export):
    """Not every table of that name has the columns."""
    with closing(sqlite3.connect(export.path)) as db:
        db.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, finish INT)")
    with pytest.raises(RecordError, match="lacks the columns end, globalpid"):
        read_nsys_sqlite(export.path)


def test_an_endless_view_is_not_looked_at(export):
    """A view of the table's name could run for ever: only real tables are read."""
    with closing(sqlite3.connect(export.path)) as db:
        db.execute(
            "CREATE VIEW CUPTI_ACTIVITY_KIND_KERNEL AS WITH RECURSIVE n(start, end, globalPid) AS "
            "(SELECT 1, 2, 3 UNION ALL SELECT start + 1, end + 1, globalPid FROM n) SELECT * FROM n"
        )
    with pytest.raises(RecordError, match="no table"):
        read_nsys_sqlite(export.path)


def test_reading_stops_at_its_limits(export, monkeypatch):
    """Too many kernels, too many processes, too many steps: refused with the remedy, not worked through."""
    path = export.write([(i, i + 1, i, 1) for i in range(50)])
    monkeypatch.setattr(kernels_module, "MAX_TENANTS", 10)
    with pytest.raises(RecordError, match="50 processes; at most 10"):
        read_nsys_sqlite(path)
    monkeypatch.setattr(kernels_module, "MAX_KERNELS", 49)
    with pytest.raises(RecordError, match="more than 49 kernels"):
        read_nsys_sqlite(path)
    monkeypatch.setattr(kernels_module, "_MAX_CALLS", 0)
    monkeypatch.setattr(kernels_module, "_STEPS_PER_CALL", 1)
    with pytest.raises(RecordError, match="too large to analyse"):
        read_nsys_sqlite(path)


def test_a_capture_is_never_written_to(export):
    """Opened immutable: bytes and folder stay as they were."""
    path = export.write([(0, 10, 7, 1)])
    before = path.read_bytes()
    read_nsys_sqlite(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_path_with_special_characters_is_opened(export, tmp_path):
    """``?`` and ``#`` mean something in a URI."""
    path = export.write([(0, 10, 7, 1)]).rename(tmp_path / "a?mode=rwc#b %20.sqlite")
    assert len(read_nsys_sqlite(path).start_ns) == 1


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_give_a_result_or_an_error(export, tmp_path, data):
    """Any bytes flipped in a capture: figures or one RecordError, nothing else."""
    if not export.path.exists():
        export.write(
            [(i, i + 5, i % 3, 1) for i in range(300)], strings=[(1, "k")], nvtx=[(0, 9, 1, "tenant=a|phase=measure")]
        )
    damaged = bytearray(export.path.read_bytes())
    for position in data.draw(st.lists(st.integers(16, len(damaged) - 1), max_size=30)):
        damaged[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    path = tmp_path / "damaged.sqlite"
    path.write_bytes(damaged[:cut])
    assert main([str(path), "--json"]) in (0, 1)


@given(st.binary(max_size=4000))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_are_refused(tmp_path, data):
    """Also behind SQLite's magic."""
    path = tmp_path / "any.sqlite"
    for content in (data, b"SQLite format 3\0" + data):
        path.write_bytes(content)
        assert main([str(path)]) == 1


value = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
cell = st.integers(0, 100) | value


@given(st.lists(st.tuples(cell, cell, cell, cell), max_size=20), st.lists(st.tuples(cell, cell, cell), max_size=5))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_rows_give_a_result_or_an_error(tmp_path, rows, nvtx):
    """SQLite cells hold any type whatever the column says."""
    path = tmp_path / "rows.sqlite"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start, end, globalPid, demangledName)")
        db.execute("CREATE TABLE StringIds (id, value)")
        db.execute("CREATE TABLE PROCESSES (globalPid, name)")
        db.execute("CREATE TABLE NVTX_EVENTS (start, end, globalTid, text)")
        db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?)", rows)
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", [row[:2] for row in rows])
        db.executemany("INSERT INTO PROCESSES VALUES (?, ?)", [row[2:] for row in rows])
        db.executemany("INSERT INTO NVTX_EVENTS VALUES (?, ?, ?, 'tenant=a|phase=measure')", nvtx)
        db.commit()
    assert main([str(path), "--json", "--window", "measure"]) in (0, 1)
