"""Figures whose failure is a finding. Lives here: Attempts, summarise_guarded, churn_guarded. May touch: numpy.

A run is measured once and may have taken hours: an error in a formula must not cost its record, nor the figures beside
the one that failed. Whatever is computed after a measurement is computed through :class:`Attempts`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mtexp.metrics.churn import KINDS, Event, KindFigures, figures_of
from mtexp.metrics.finding import Finding
from mtexp.metrics.samples import Floats
from mtexp.metrics.summary import Measured, RunSummary, insufficient_keys, summarise_run, summarise_tenant
from mtexp.metrics.window import Window

T = TypeVar("T")
FAILED = "figure-failed"
"""Code of the finding of a figure that could not be computed."""


class Attempts:
    """Computes figures and collects a finding for each one that fails."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def of(self, what: str, compute: Callable[[], T], otherwise: T, *, level: str = "warning", tenant: str = "") -> T:
        """Return ``compute()``; ``otherwise``, and a finding that names ``what``, when it raises.

        Args:
            what: Names the figures, for the finding.
            compute: Computes them.
            otherwise: Their value when they cannot be computed.
            level: Of the finding: ``invalid`` where the verdict rests on the figures.
            tenant: Whose figures they are; empty = the run's.
        """
        try:
            return compute()
        except Exception as error:  # noqa: BLE001  an unexpected error in a figure must not cost the samples
            self.findings.append(_failed(what, error, level, tenant))
            return otherwise


def _failed(what: str, error: Exception, level: str, tenant: str) -> Finding:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    text = " ".join(str(error).split())[:300]
    return Finding(
        level,
        FAILED,
        f"{what} could not be computed: {type(error).__name__}: {text} ({where})",
        "Every sample is in iterations.parquet. Please report this with the record.",
        tenant,
    )


def summarise_guarded(
    tenants: Mapping[str, Measured], window: Window | None, attempts: Attempts, **options: Any
) -> RunSummary:
    """:func:`summarise_run`; if it raises, the figures of each tenant that has some, and a finding for what failed.

    Args:
        tenants: By tenant id.
        window: The run's.
        attempts: Gets the findings.
        options: Of :func:`summarise_run`.
    """
    for name, tenant in tenants.items():
        if window is not None and tenant.samples.open_loop:
            _note_of_burst(name, tenant, window, attempts)
    nothing = RunSummary({}, {}, {})
    summary = attempts.of(
        "STP, ANTT, fairness, totals and intervals", lambda: summarise_run(tenants, window, **options), nothing
    )
    if summary is not nothing:
        return summary
    sm_clock_mhz = options.get("sm_clock_mhz")
    own = {name: attempts.of(*_alone(name, t, window, sm_clock_mhz), tenant=name) for name, t in tenants.items()}
    return RunSummary({}, own, {name: insufficient_keys(metrics) for name, metrics in own.items()})


def _alone(
    name: str, tenant: Measured, window: Window | None, sm_clock_mhz: float | None
) -> tuple[str, Callable[[], dict[str, float]], dict[str, float]]:
    """What to attempt for one tenant: its figures without those that compare it with the others of the run."""
    return (
        f"the figures of {name}",
        lambda: summarise_tenant(
            tenant.samples,
            window,
            tenant.alone,
            slo_ms=tenant.slo_ms,
            new_tokens=tenant.new_tokens,
            sm_clock_mhz=sm_clock_mhz,
        ),
        {"iterations_measured": float(len(tenant.samples.measured))},
    )


def _note_of_burst(name: str, tenant: Measured, window: Window, attempts: Attempts) -> None:
    kept = attempts.of(f"the arrivals of {name}", lambda: window.keep(tenant.samples), None, tenant=name)
    if kept is not None and len(kept) > 1 and kept.arrival_ns.min() == kept.arrival_ns.max():
        attempts.findings.append(
            Finding(
                "note",
                "no-offered-rate",
                f"all {len(kept)} requests of {name} in the window arrived at one instant: they have no rate",
                "Use a trace with arrivals at different instants if the offered rate matters.",
                name,
            )
        )


def churn_guarded(
    events: Sequence[Event], latencies_ms: Sequence[Floats], steady: str, attempts: Attempts, *, seed: int = 0
) -> list[KindFigures]:
    """:func:`figures_of` of each kind by itself; of one that raises, the figures that need no latencies.

    Args:
        events: Of one run, or of several of the same kind.
        latencies_ms: Of the requests of each event.
        steady: Id of the steady tenant.
        attempts: Gets the findings.
        seed: Of the draws.
    """
    found: list[KindFigures] = []
    for kind in KINDS:
        places = [place for place, event in enumerate(events) if event.kind == kind]
        if not places:
            continue
        own = [events[place] for place in places]
        own_ms = [latencies_ms[place] for place in places]
        figures = attempts.of(f"p99 of {kind}", _kind(own, own_ms, steady, seed), None)
        if figures is None:
            nothing_ms = [np.zeros(0)] * len(own)
            figures = attempts.of(f"the figures of {kind}", _kind(own, nothing_ms, steady, seed), None)
        found += figures or ()
    return found


def _kind(
    events: Sequence[Event], latencies_ms: Sequence[Floats], steady: str, seed: int
) -> Callable[[], list[KindFigures] | None]:
    return lambda: figures_of(events, latencies_ms, steady, seed=seed)
