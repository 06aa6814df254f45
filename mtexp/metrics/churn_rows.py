"""The figures of a churn run under their keys, and as rows of a table, from the data of its ``record.json``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtexp.metrics.churn import KINDS, KindFigures
from mtexp.text_tables import rounded

ABSENT = "-"


def metrics_of(figures: Sequence[KindFigures]) -> dict[str, float]:
    """The figures of a churn run under their keys."""
    return dict(_metrics(figures))


def _metrics(figures: Sequence[KindFigures]) -> Iterator[tuple[str, float]]:
    for kind in figures:
        stem = f"churn_{kind.kind}"
        yield f"{stem}_events", kind.events
        yield f"{stem}_lost", kind.lost
        yield f"{stem}_died", sum(kind.died.values())
        for name, value, interval in (
            ("stall_ms", kind.stall_ms, kind.stall_ci_ms),
            ("stall_p50_ms", kind.stall_p50_ms, kind.stall_p50_ci_ms),
            ("steady_died_pct", kind.steady_died_pct, kind.steady_died_ci_pct),
            ("p99_ms", kind.p99_ms, kind.p99_ci_ms),
            ("back_s", kind.back_s, None),
            ("neighbour_back_s", kind.neighbour_back_s, None),
            ("took_s", kind.took_s, None),
        ):
            if value is not None:
                yield f"{stem}_{name}", value
            if interval is not None:
                yield f"{stem}_{name}_ci_low", interval[0]
                yield f"{stem}_{name}_ci_high", interval[1]


def churn_rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row a kind of event, in the order of a neighbour's life; none for another kind of run."""
    metrics, events = record["metrics"], record.get("events", ())
    rows = []
    for kind in KINDS:
        stem = f"churn_{kind}"
        if f"{stem}_events" not in metrics:
            continue
        own = [event for event in events if event["kind"] == kind]
        died = Counter(name for event in own for name in event["died"])
        rows.append(
            {
                "event": kind,
                "events": f"{metrics[f'{stem}_events']:.0f}",
                "stall ms": _figure(metrics, f"{stem}_stall_ms"),
                "median ms": _figure(metrics, f"{stem}_stall_p50_ms"),
                "worst ms": rounded(max((event["stall_ms"] for event in own), default=0.0), 4),
                "p99 ms": _figure(metrics, f"{stem}_p99_ms"),
                "lost": f"{metrics[f'{stem}_lost']:.0f}",
                "died": ", ".join(f"{name} {count}x" for name, count in died.items()) or ABSENT,
                "steady died %": _figure(metrics, f"{stem}_steady_died_pct"),
                "serves again s": _figure(metrics, f"{stem}_back_s"),
                "neighbour back s": _figure(metrics, f"{stem}_neighbour_back_s"),
                "took s": _figure(metrics, f"{stem}_took_s"),
            }
        )
    return rows


def _figure(metrics: Mapping[str, float], key: str) -> str:
    """A value with its interval where it has one."""
    if key not in metrics:
        return ABSENT
    text = rounded(metrics[key], 3)
    low, high = (metrics.get(f"{key}_ci_{end}") for end in ("low", "high"))
    return text if low is None or high is None else f"{text} [{rounded(low, 3)}, {rounded(high, 3)}]"
