"""Captures made by hand, as the tests of the profiling passes need them."""

import sqlite3
from contextlib import closing

import pytest

PID_UNIT = 0x1000000


class Export:
    """Writes an nsys SQLite export with the columns that a test cares about."""

    def __init__(self, path):
        self.path = path

    def write(self, kernels=(), *, graphs=None, strings=(), processes=None, nvtx=None, columns="shortName"):
        """``kernels``: (start, end, pid, name id); ``nvtx``: (start, end, pid, text); None = no such table."""
        with closing(sqlite3.connect(self.path)) as db:
            if kernels is not None:
                db.execute(
                    f"CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, globalPid INT, {columns} INT)"
                )
                rows = [(s, e, pid * PID_UNIT, name) for s, e, pid, name in kernels]
                db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?)", rows)
            if graphs is not None:
                db.execute(
                    "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INT, end INT, globalPid INT, graphId INT)"
                )
                rows = [(s, e, pid * PID_UNIT) for s, e, pid in graphs]
                db.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (?, ?, ?, 1)", rows)
            if strings:
                db.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
                db.executemany("INSERT INTO StringIds VALUES (?, ?)", strings)
            if processes is not None:
                db.execute("CREATE TABLE PROCESSES (globalPid INT, pid INT, name TEXT)")
                db.executemany("INSERT INTO PROCESSES VALUES (?, ?, ?)", [(p * PID_UNIT, p, n) for p, n in processes])
            if nvtx is not None:
                db.execute("CREATE TABLE NVTX_EVENTS (start INT, end INT, text TEXT, textId INT, globalTid INT)")
                rows = [
                    (
                        s,
                        e,
                        text if isinstance(text, str) else None,
                        text if isinstance(text, int) else None,
                        pid * PID_UNIT + 7,
                    )
                    for s, e, pid, text in nvtx
                ]
                db.executemany("INSERT INTO NVTX_EVENTS VALUES (?, ?, ?, ?, ?)", rows)
            db.commit()
        return self.path


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path / "capture.sqlite")
