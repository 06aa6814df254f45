"""Telemetry that was recorded, played again.

Lives here: :func:`replay`. May touch: numpy. A ``telemetry.parquet`` of a real run is a recording as it is;
:func:`mtexp.telemetry.table.load` reads it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtexp.telemetry.table import Samples
from mtexp.testing.nvml import Values


def replay(recording: Samples, *, start_ns: int | None = None) -> Callable[[int], Values]:
    """Return ``FakeGpu.values`` that repeat a recording (:func:`mtexp.telemetry.table.load`), from its first row on.

    Each column answers with what had been sampled last; after the end, with its last value.

    Args:
        recording: Of a real run.
        start_ns: Monotonic time that the first row stands for; the first time asked for by default.
    """
    return _Replay(recording, start_ns)


class _Replay:
    def __init__(self, recording: Samples, start_ns: int | None) -> None:
        self._start_ns = start_ns
        self._columns = {}
        for name, column in recording.columns.items():
            there = ~np.isnan(column)
            self._columns[name] = (recording.times_ns[there] - recording.times_ns[0], column[there])

    def __call__(self, now_ns: int) -> Values:
        if self._start_ns is None:
            self._start_ns = now_ns
        since_ns = now_ns - self._start_ns
        places = {name: int(np.searchsorted(at, since_ns, side="right")) - 1 for name, (at, _) in self._columns.items()}
        return {name: float(self._columns[name][1][place]) for name, place in places.items() if place >= 0}
