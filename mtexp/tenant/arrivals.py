"""When requests come, as instants. May touch: numpy."""

from __future__ import annotations

import numpy as np

from mtexp.spec import ArrivalSpec


def arrival_instants_ns(arrival: ArrivalSpec, start_ns: int, count: int) -> list[int]:
    """Instants of the monotonic clock at which requests arrive, in order, at most ``count``.

    Poisson arrivals have exponential gaps of mean 1 / ``rate_rps``; equal seeds give equal gaps. A trace gives its own
    number of arrivals.

    Raises:
        ValueError: The kind is not open loop, or the rate is not positive.
    """
    if arrival.kind == "trace":
        offsets_s = np.asarray(arrival.trace[:count], dtype=np.float64)
    elif arrival.rate_rps <= 0:
        raise ValueError(f"arrival.rate_rps={arrival.rate_rps}: must be positive for {arrival.kind} arrivals")
    elif arrival.kind == "poisson":
        gaps = np.random.default_rng(arrival.seed).exponential(1 / arrival.rate_rps, count)
        offsets_s = np.cumsum(gaps)
    elif arrival.kind == "constant":
        offsets_s = np.arange(count) / arrival.rate_rps
    else:
        raise ValueError(f"arrival.kind={arrival.kind}: not an open-loop arrival process")
    instants: list[int] = (start_ns + np.rint(offsets_s * 1e9).astype(np.int64)).tolist()
    return instants
