"""What tenants do to each other, as plain formulas on arrays. May touch: numpy.

"Alone" is the baseline that the caller chose: the tenant alone on the whole device, or alone under the run's limits.

- S. Eyerman, L. Eeckhout, System-Level Performance Metrics for Multiprogram Workloads, IEEE Micro 28(3), 2008:
  normalized progress, STP, ANTT.
- R. Jain, D. Chiu, W. Hawe, A Quantitative Measure of Fairness and Discrimination, DEC-TR-301, 1984: Jain's index.

Every function raises ValueError for input that is empty, not finite, not positive or of shapes that do not match: a
figure drawn from it would be invented. Latencies in ms and rates in requests a second are conventions; a ratio does not
depend on the unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtexp.metrics.latency import percentile_ms
from mtexp.metrics.samples import Floats, Samples
from mtexp.metrics.window import Series


def _checked(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{name}: no value; give one a tenant")
    if not np.isfinite(array).all() or not (array > 0).all():
        bad = array[~(np.isfinite(array) & (array > 0))].flat[0]
        raise ValueError(f"{name}: found {bad}; every value must be positive and finite")
    return array


def _checked_pair(first: str, a: ArrayLike, second: str, b: ArrayLike) -> tuple[Floats, Floats]:
    """Both, of one shape: broadcasting would compare a tenant with another's baseline."""
    checked = _checked(first, a), _checked(second, b)
    if checked[0].shape != checked[1].shape:
        raise ValueError(f"{first} has shape {checked[0].shape}, {second} {checked[1].shape}; both must be the same")
    return checked


def normalized_progress(throughput_shared: ArrayLike, throughput_alone: ArrayLike) -> Floats:
    """NP_i = throughput shared / throughput alone, elementwise; 1 = as fast as alone. Both of one shape."""
    shared, alone = _checked_pair("throughput_shared", throughput_shared, "throughput_alone", throughput_alone)
    return shared / alone


def slowdown(latency_mean_shared: ArrayLike, latency_mean_alone: ArrayLike) -> Floats:
    """S_i = mean latency shared / mean latency alone, elementwise; 1 = undisturbed. Both of one shape.

    Of means, not medians: only for them is S_i = 1 / NP_i in closed loop, but for the gaps between requests.
    """
    shared, alone = _checked_pair("latency_mean_shared", latency_mean_shared, "latency_mean_alone", latency_mean_alone)
    return shared / alone


def stp_rows(progress: Floats) -> Floats:
    """:func:`stp` along the last axis, unchecked."""
    total: Floats = progress.sum(axis=-1)
    return total


def antt_rows(slowdowns: Floats) -> Floats:
    """:func:`antt` along the last axis, unchecked."""
    mean: Floats = slowdowns.mean(axis=-1)
    return mean


def jain_fairness_rows(progress: Floats) -> Floats:
    """:func:`jain_fairness` along the last axis, unchecked."""
    share: Floats = progress / progress.max(axis=-1, keepdims=True)  # the index does not depend on scale; no overflow
    index: Floats = share.sum(axis=-1) ** 2 / (share.shape[-1] * (share**2).sum(axis=-1))
    return index


def _vector(name: str, values: ArrayLike) -> Floats:
    return _checked(name, values).ravel()


def stp(progress: ArrayLike) -> float:
    """System throughput, sum_i NP_i: 1 = no better than taking turns, n = no interference.

    Args:
        progress: NP of each tenant, shape (n,).
    """
    return float(stp_rows(_vector("stp", progress)))


def antt(slowdowns: ArrayLike) -> float:
    """Average normalized turnaround time, (1/n) sum_i S_i: 1 = undisturbed, lower is better.

    Args:
        slowdowns: S of each tenant, shape (n,).
    """
    return float(antt_rows(_vector("antt", slowdowns)))


def jain_fairness(progress: ArrayLike) -> float:
    """Jain's index (sum NP)^2 / (n sum NP^2), in [1/n, 1]; 1 = all tenants progress alike.

    Args:
        progress: NP of each tenant, shape (n,): never raw latencies, which differ by model.
    """
    return float(jain_fairness_rows(_vector("jain_fairness", progress)))


def fairness(progress: ArrayLike) -> float:
    """Smallest NP / largest NP, in (0, 1]; 1 = all tenants progress alike.

    Args:
        progress: NP of each tenant, shape (n,).
    """
    checked = _vector("fairness", progress)
    return float(checked.min() / checked.max())


def percentile_slowdown(latency_shared: ArrayLike, latency_alone: ArrayLike, percentile: float) -> float:
    """Q(latency shared) / Q(latency alone) at ``percentile`` (in percent); latencies of shape (n,) and (m,)."""
    shared, alone = _checked("latency_shared", latency_shared), _checked("latency_alone", latency_alone)
    return percentile_ms(shared, percentile) / percentile_ms(alone, percentile)


def tail_inflation(latency_shared: ArrayLike, latency_alone: ArrayLike) -> float:
    """How much more the tail grew than the middle: slowdown of p99 / slowdown of the median.

    Equally (Q_99 / Q_50 shared) / (Q_99 / Q_50 alone): 1 = the distribution was stretched as a whole.
    """
    tail = percentile_slowdown(latency_shared, latency_alone, 99.0)
    return tail / percentile_slowdown(latency_shared, latency_alone, 50.0)


def at_same_arrivals(shared: Series, alone: Series) -> tuple[Floats, Floats]:
    """Latencies of the requests that an open-loop tenant served in both runs, shared and alone; both of shape (n,).

    Args:
        shared: Of a run with neighbours.
        alone: Of the tenant alone, with the same arrivals.
    """
    if shared.arrival is None or alone.arrival is None:
        return np.empty(0), np.empty(0)
    _, own, other = np.intersect1d(shared.arrival, alone.arrival, assume_unique=True, return_indices=True)
    return shared.latency_ms[own], alone.latency_ms[other]


def energy_per_request(energy_j: float, requests: float) -> float:
    """Energy of the device over the window / requests that the window holds, in J.

    Args:
        energy_j: Over the whole window.
        requests: Of all tenants, with fractions: window / mean cycle, summed over tenants.
    """
    return float(_checked("energy_j", energy_j) / _checked("requests", requests))


@dataclass(frozen=True, slots=True)
class ClockAttribution:
    """A slowdown as a product: ``clock`` x ``rest``."""

    clock: float
    rest: float


def clock_attribution(total_slowdown: float, sm_clock_shared_mhz: float, sm_clock_alone_mhz: float) -> ClockAttribution:
    """Split a slowdown into what the SM clock explains and the rest (contention for everything else).

    clock = f_alone / f_shared, capped to [1, max(1, slowdown)]; rest = slowdown / clock. The clock part is an upper
    bound: it takes latency as inversely proportional to the SM clock, which memory-bound and launch-bound work is not.
    A clock that rose explains nothing of a slowdown, and the clock explains no more than the slowdown there is.

    Args:
        total_slowdown: S of the tenant.
        sm_clock_shared_mhz: Mean SM clock in the window of the shared run.
        sm_clock_alone_mhz: Mean SM clock in the window of the baseline.
    """
    total = float(_checked("slowdown", total_slowdown))
    ratio = float(
        _checked("sm_clock_alone_mhz", sm_clock_alone_mhz) / _checked("sm_clock_shared_mhz", sm_clock_shared_mhz)
    )
    clock = min(max(ratio, 1.0), max(total, 1.0))
    return ClockAttribution(clock, total / clock)


def slo_attainment_pct(latency_ms: ArrayLike, slo_ms: float) -> float:
    """Share of requests whose latency (shape (n,)) is at most ``slo_ms``, in percent."""
    within = _checked("latency_ms", latency_ms) <= _checked("slo_ms", slo_ms)
    return 100 * float(np.mean(within))


def offered_rps(samples: Samples) -> float:
    """Arrivals a second of the requests served, from the first arrival to the last.

    Raises:
        ValueError: Fewer than two requests, or all at one instant.
    """
    if len(samples) < 2:
        raise ValueError(f"offered_rps: found {len(samples)} requests; needs at least two")
    span_ns = int(samples.arrival_ns[-1] - samples.arrival_ns[0])
    return float((len(samples) - 1) / _checked("span between arrivals", span_ns / 1e9))


def saturated(samples: Samples) -> bool:
    """True if an open-loop tenant could not keep up: its queue grows for as long as one measures.

    Two signs together: the requests that it served had arrived faster than it served them (offered rate x mean service
    time > 1), and the median queueing time of the last third exceeds that of the first by more than one service time.
    Its latency then says how long was measured, not how fast it is, and enters no mean.

    Args:
        samples: The kept iterations of the tenant, in the order served. Fewer than 6 never count as saturated.
    """
    if len(samples) < 6 or not samples.open_loop:
        return False
    service_s = float(samples.service_ms.mean()) / 1e3
    third = len(samples) // 3
    queue_s = samples.queue_ms / 1e3
    growth_s = float(np.median(queue_s[-third:]) - np.median(queue_s[:third]))
    arrived_s = int(samples.arrival_ns[-1] - samples.arrival_ns[0]) / 1e9
    return growth_s > service_s and service_s * (len(samples) - 1) > arrived_s
