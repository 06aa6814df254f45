"""Figures of what was measured, for the report, for MLflow and for notebooks.

Lives here: :data:`FIGURES`, every figure that the report shows, in its order. May touch: plotly. Each takes
:class:`analysis.pooling.Results` and returns a plotly figure, or None where the data have nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go

from .. import tables
from ..pooling import Results
from .churn import churn
from .combinations import combinations, shares
from .method import event_timer, repeats
from .partitions import one_axis, sm_curve
from .rounds import rounds
from .samples import (
    latency_by_clock,
    latency_by_neighbours,
    latency_ecdf,
    latency_over_time,
    telemetry,
)
from .sharing import (
    energy,
    fairness,
    has_above_ideal,
    has_tail,
    has_unbounded_tail,
    interference_matrix,
    kinds,
    sensitivity,
    slowdown_by_tenant,
    stp_by_mix,
)
from .workloads import (
    capacity,
    has_alone,
    has_saturated,
    latency_load,
    scaling,
    settings,
    slo_attainment,
    tokens,
    workloads,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the report."""

    name: str
    """Name of its file."""
    title: str
    caption: str
    draw: Callable[[Results], go.Figure | None]
    notes: tuple[tuple[Callable[[Results], bool], str], ...] = ()
    """What the caption adds where the data have it, so that it explains nothing that is not in the figure."""

    def caption_of(self, results: Results) -> str:
        """The caption of the figure of these results."""
        return " ".join([self.caption, *(text for is_there, text in self.notes if is_there(results))])


_WITHIN_MODE = (
    tables.compared_within_mode,
    "Alone means alone under the same sharing mode: what the mode itself costs is not in it.",
)
_OPEN_SYMBOLS = (
    has_above_ideal,
    "Open symbols have more STP than tenants, which only baselines that did not repeat can give.",
)

FIGURES = (
    Figure(
        "interference-matrix",
        "Who slows whom",
        "Slowdown of the row's model while the column's model runs beside it: 1 = undisturbed, 2 = twice as slow. "
        "Two tenants of one model show the mean of both.",
        interference_matrix,
        (_WITHIN_MODE,),
    ),
    Figure(
        "combinations",
        "Which combinations pay",
        "Each point is a mix under a sharing mode: how much gets done (STP), and what the tenant that is worst off "
        "pays. Right of 1 the mix gets more done than taking turns. Numbered, with 95 % intervals: no other "
        "combination has both a higher lower end of STP and a lower upper end of the slowdown.",
        combinations,
        (_OPEN_SYMBOLS,),
    ),
    Figure(
        "stp-by-mix",
        "What sharing is worth",
        "STP is the work done together in units of what each does alone on the whole device (where the runs know it): "
        "1 = no better than taking turns, the number of tenants = no interference. Bars are 95 % intervals; the widest "
        "leave the figure.",
        stp_by_mix,
        (_OPEN_SYMBOLS,),
    ),
    Figure(
        "slowdown-by-tenant",
        "Slowdown and tail by tenant",
        "How many times as long a request takes as alone, tenant by tenant, in the largest mixes of different models; "
        "of mixes of one size in those that slow a tenant most. Bars are 95 % intervals; the widest leave the figure.",
        slowdown_by_tenant,
        (
            _WITHIN_MODE,
            (has_tail, "Right: the highest percentile that the requests support."),
            (has_unbounded_tail, "Not bounded: runs have too few requests for that percentile."),
        ),
    ),
    Figure(
        "fairness",
        "Fairness",
        "Progress of the tenant that gets least, as a share of that of the one that gets most, each against itself "
        "alone. The noise of measuring is taken off. Bars are 95 % intervals; the widest leave the figure.",
        fairness,
        (_WITHIN_MODE,),
    ),
    Figure(
        "scaling",
        "How many tenants",
        "The same model, one to many tenants. At one tenant STP and ANTT are 1 by definition where only the baseline "
        "was measured. Bars are 95 % intervals.",
        scaling,
    ),
    Figure(
        "shares",
        "How much of the device a tenant needs",
        "Slowdown under MPS percentages, against the tenant alone on the whole device and, where it was measured "
        "(baseline.partitioned=true), alone under the same percentage. Bars, of the former, are 95 % intervals.",
        shares,
    ),
    Figure(
        "churn",
        "Events of a neighbour",
        "What happens to a tenant that serves requests at a fixed rate while a neighbour starts, works, misbehaves and "
        "goes, by event. Bars are 95 % intervals over events; runs with fewer than 30 events of a kind have none.",
        churn,
    ),
    Figure(
        "sm-curve",
        "SMs that a model needs",
        "Latency alone against SMs, in green contexts (MPS percentages where named; only right ones). The ring is the "
        "knee: the fewest SMs from which on latency is within 5 % of that on the most SMs. Bars are 95 % intervals.",
        sm_curve,
    ),
    Figure(
        "one-axis",
        "The same mixes under every sharing mode",
        "Slowdown against alone on the whole device. Modes that part the SMs give every tenant the same number. Bars "
        "are 95 % intervals.",
        one_axis,
    ),
    Figure(
        "kinds",
        "Kinds of pairs",
        "Every pair that was measured, by its kind. A box holds the middle half of the pairs, the line is the median.",
        kinds,
    ),
    Figure(
        "settings",
        "Batch size and sequence length",
        "The same tenants with one setting changed; all else is equal. Bars are 95 % intervals.",
        settings,
    ),
    Figure(
        "workloads",
        "The same model doing different work",
        "Slowdown beside the same neighbour, by what the model does. Bars are 95 % intervals.",
        workloads,
    ),
    Figure(
        "latency-load",
        "Latency against load",
        "Open loop: latency counts from the intended arrival, so the wait in the tenant's own queue is in it. Dotted: "
        "the median; solid: the highest percentile that the requests support.",
        latency_load,
        (
            (has_alone, "Black: the same requests of the tenant alone."),
            (has_saturated, "A cross at the top: the tenant could not keep up."),
        ),
    ),
    Figure(
        "capacity",
        "Capacity",
        "The highest load at which every tenant keeps its level (dot), up to the lowest that was seen to miss it.",
        capacity,
    ),
    Figure(
        "slo-attainment",
        "Service levels",
        "Requests within the service level of their tenant.",
        slo_attainment,
    ),
    Figure(
        "tokens",
        "Time to first token, time per token",
        "Medians of generating tenants.",
        tokens,
    ),
    Figure(
        "sensitivity",
        "What each model depends on",
        "Slowdown beside tenants that press on one resource each.",
        sensitivity,
    ),
    Figure(
        "energy",
        "Energy against taking turns",
        "Energy of the whole device for the requests of a mix, against the same requests served one tenant at a time. "
        "Left of 1 sharing saves energy. Bars are 95 % intervals; the widest leave the figure.",
        energy,
    ),
    Figure(
        "repeats",
        "How runs repeat",
        "Each point is a tenant that was measured more than once: how far its runs lie apart. A box holds the middle "
        "half, the line is the median.",
        repeats,
    ),
    Figure(
        "event-timer",
        "Event timer against host clock",
        "Each point is a tenant. Below the line the CUDA-event timer misses part of the slowdown that a client sees: "
        "the time a request waits for its turn on the device. Bars are 95 % intervals, both axes logarithmic.",
        event_timer,
    ),
    Figure(
        "latency-ecdf",
        "Latency, alone and shared",
        "Share of requests served within a time (logarithmic). The further a line lies to the right of the dotted one, "
        "the more the neighbours cost.",
        latency_ecdf,
    ),
    Figure(
        "latency-over-time",
        "Latency over time",
        "Every request of one mix. Shaded while neighbours measure too, the darker the more of them; thinned so that "
        "the lowest and highest of each stretch remain.",
        latency_over_time,
    ),
    Figure(
        "rounds",
        "Round by round",
        "One mix that was measured in turns. Left: together / alone in each round, and the mean (line). Right: the "
        "alone blocks of the same rounds; they do the same work, so what differs is the state of the host. A slowdown "
        "that does not follow the host is one of the device.",
        rounds,
    ),
    Figure(
        "latency-by-clock",
        "Latency and the SM clock",
        "The same requests, coloured by the SM clock while they ran: what slows down with it, the clock explains.",
        latency_by_clock,
    ),
    Figure(
        "latency-by-neighbours",
        "Latency and the neighbours",
        "Requests of tenants in open loop, from their start on, by how many neighbours had a request in flight then. "
        "Boxes are quartiles, whiskers the 5th and 95th percentile; counts with too few requests for a median are left "
        "out.",
        latency_by_neighbours,
    ),
    Figure(
        "telemetry",
        "Device",
        "What the device did (without a GPU: the host) around the window (shaded) of one mix.",
        telemetry,
    ),
)


def draw(results: Results) -> dict[str, go.Figure]:
    """Every figure that the data have something for, by name."""
    drawn = {figure.name: figure.draw(results) for figure in FIGURES}
    return {name: figure for name, figure in drawn.items() if figure is not None}
