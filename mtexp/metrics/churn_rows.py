"""The events of a churn run as rows of a table, from the data of its ``record.json``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mtexp.metrics.churn import KINDS

ABSENT = "-"


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
                "worst ms": f"{max((event['stall_ms'] for event in own), default=0.0):.4g}",
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
    text = f"{metrics[key]:.3g}"
    low, high = (metrics.get(f"{key}_ci_{end}") for end in ("low", "high"))
    return text if low is None or high is None else f"{text} [{low:.3g}, {high:.3g}]"
