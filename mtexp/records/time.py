"""Wall time of what a record holds. Pure.

Processes compare ``time.monotonic_ns()``; a record has pairs of readings of it and of the wall clock.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from mtexp.records.record import RunRecord


def epoch_ms(record: RunRecord, monotonic_ns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the wall time, in ms since 1970, of each of ``monotonic_ns``, by the record's pairs of clock readings."""
    if not len(monotonic_ns):
        return monotonic_ns
    if not record.clock:
        return np.asarray(iso_ms(record.started_at) + (monotonic_ns - monotonic_ns.min()) // 1_000_000)
    pairs = np.array(record.clock, dtype=np.int64)
    origin = pairs[0]
    relative = pairs - origin
    drift = np.interp(monotonic_ns - origin[0], relative[:, 0], relative[:, 1] - relative[:, 0])
    return np.asarray((monotonic_ns - origin[0] + np.rint(drift).astype(np.int64) + origin[1]) // 1_000_000)


def iso_ms(text: str) -> int:
    """Return an ISO 8601 time in ms since 1970; 0 when there is none."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return 0
