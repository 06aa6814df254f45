"""What the terminal shows: a line per phase, the table of a run, the summary of a sweep, a bar. May touch: stdout.

Tables are made from the data of ``record.json``, so they look the same whoever measured, and wherever. On a terminal
they are drawn by rich; in a file or a pipe they are plain aligned lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from mtexp.records.keys import WITHIN_RUN_TEXT

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

log = logging.getLogger(__name__)

ABSENT = "-"
_NUMBERS = {"p50 ms", "p90 ms", "p99 ms", "req/s", "slowdown", "service slowdown", "STP", "ANTT", "fairness"} | {
    *("launch-bound %", "repetition"),
    *("asked/s", "goodput/s", "level ms", "within %", "requests"),
}
_SUMMARY = {"STP": "stp", "ANTT": "antt", "fairness": "fairness"}
_MIN_POINTS_OF_A_BAR = 3
_MOST_SLOWDOWNS = 8
_bars: list[Progress] = []


@cache
def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def say(text: str) -> None:
    """Print one line."""
    if sys.stdout.isatty():
        _console().print(text, markup=False)
    else:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def phase(text: str) -> None:
    """Print what a run is doing now; its ``mtexp.log`` gets the line with the time."""
    log.info("%s", text)
    say(f"  {text}")


def results(record: Mapping[str, Any]) -> None:
    """Print the results of one run: a row a tenant, then STP, ANTT, fairness and the verdict with its reasons."""
    rows = [_tenant_row(tenant) for tenant in record["tenants"]]
    if rows:
        for column in ("launch-bound %", "service slowdown"):
            if {row[column] for row in rows} == {ABSENT}:
                rows = _without(rows, column)
        _table(rows)
    for line in (*_summary_lines(record), *_verdict_lines(record)):
        say(line)


def summary(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the summary of a sweep, one row a run (:func:`sweep_row`); which repetition it was, where they differ."""
    if rows:
        _table(_without(rows, "repetition") if len({row.get("repetition") for row in rows}) == 1 else rows)


def sweep_row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of one run in the summary of its sweep."""
    spec, metrics = record["spec"], record["metrics"]
    precisions = sorted({tenant["precision"] for tenant in spec["tenants"]})
    finished = record["status"] == "FINISHED"
    return {
        "mix": spec["mix"],
        "precision": ",".join(precisions),
        "mps_settings": spec["sharing"]["mps"] if spec["sharing"]["mode"] == "processes" else spec["sharing"]["mode"],
        "tenants": str(len(spec["tenants"])),
        "repetition": str(spec["repetition"]),
        "STP": _number(metrics.get("stp"), 3),
        "ANTT": _number(metrics.get("antt"), 3),
        "fairness": _number(metrics.get("fairness"), 3),
        "verdict": record["verdict"] if finished else record["status"],
    }


@contextmanager
def sweep_bar(points: int) -> Iterator[None]:
    """Show a live bar for a sweep of ``points`` runs, where there is a terminal and more than a few of them.

    It is drawn anew only when a run ends (:func:`advance`): nothing of it runs while tenants measure.
    """
    if points < _MIN_POINTS_OF_A_BAR or not sys.stdout.isatty():
        yield
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(), auto_refresh=False) as bar:
        bar.add_task("sweep", total=points)
        bar.refresh()
        _bars.append(bar)
        try:
            yield
        finally:
            _bars.remove(bar)


def advance() -> None:
    """Count one run of the sweep as done."""
    for bar in _bars:
        bar.advance(bar.task_ids[0])
        bar.refresh()


# --- rows and lines ---------------------------------------------------------------------------------------------------


def _tenant_row(tenant: Mapping[str, Any]) -> dict[str, str]:
    metrics, insufficient = tenant["metrics"], tenant["insufficient"]
    row = {"tenant": tenant["id"], "model": tenant["model"]}
    for name in ("p50", "p90", "p99"):
        key = f"latency_{name}_ms"
        row[f"{name} ms"] = ABSENT if key in insufficient else _number(metrics.get(key), 4)
    row["req/s"] = _number(metrics.get("throughput_rps"), 4)
    row["slowdown"] = _number(metrics.get("slowdown"), 3)
    row["service slowdown"] = _number(metrics.get("service_slowdown"), 3)
    row["launch-bound %"] = _number(metrics.get("launch_bound_pct"), 3)
    if tenant["status"] != "FINISHED":
        row["slowdown"] = tenant["status"]
    return row


def _summary_lines(record: Mapping[str, Any]) -> Iterator[str]:
    metrics = record["metrics"]
    parts = [_with_interval(label, key, metrics) for label, key in _SUMMARY.items() if key in metrics]
    if "overlap_pct" in metrics:
        parts.append(f"overlap {metrics['overlap_pct']:.1f} %")
    if parts:
        yield "  ".join(parts)
    if record["spec"]["measure"].get("design") == "crossover":
        yield from _crossover_lines(record)
    elif any("[" in part for part in parts):
        yield f"  {WITHIN_RUN_TEXT}"


def _crossover_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the rounds came to: ``slowdown of a 1.14 +- 0.03 after 24 rounds``; of one with few tenants, of each."""
    known = [t for t in record["tenants"] if "slowdown_ci_high" in t["metrics"]]
    for tenant in known[:_MOST_SLOWDOWNS]:
        metrics = tenant["metrics"]
        half = (metrics["slowdown_ci_high"] - metrics["slowdown_ci_low"]) / 2
        rounds = f"after {metrics['rounds']:.0f} rounds"
        yield f"slowdown of {tenant['id']} {metrics['slowdown']:.3f} +- {half:.3f} {rounds}, against alone in this mode"
    if len(known) > _MOST_SLOWDOWNS:
        yield f"and {len(known) - _MOST_SLOWDOWNS} more"


def _with_interval(label: str, key: str, metrics: Mapping[str, float]) -> str:
    text = f"{label} {_number(metrics[key], 3)}"
    low, high = metrics.get(f"{key}_ci_low"), metrics.get(f"{key}_ci_high")
    return text if low is None or high is None else f"{text} [{_number(low, 3)}, {_number(high, 3)}]"


def _verdict_lines(record: Mapping[str, Any]) -> Iterator[str]:
    from mtexp.metrics.verdict import Finding, sentences  # numpy: not for a line of help

    failure = record["failure"]
    yield f"{record['status']}: {failure}" if record["status"] != "FINISHED" else str(record["verdict"])
    # the failure has been said; what else a failed run lacks follows from it
    findings = [f for f in record["findings"] if not failure or f["level"] == "warning"]
    for sentence in sentences(Finding(**f) for f in findings):
        yield f"  {sentence}"


def _number(value: float | None, digits: int) -> str:
    """``value`` with so many significant digits, in plain notation; ``-`` where there is none."""
    if value is None or value != value:
        return ABSENT
    decimals = max(0, digits - len(str(int(abs(value)))))
    return f"{value:.{decimals}f}"


def _without(rows: Sequence[Mapping[str, Any]], column: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != column} for row in rows]


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    if not sys.stdout.isatty():
        say(plain_table(rows))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    styles = {"VALID": "green", "INVALID": "yellow", "FAILED": "red"}
    for row in rows:
        table.add_row(*(str(v) for v in row.values()), style=styles.get(row.get("verdict", "")))
    _console().print(table)


def plain_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` (all with the same keys) as aligned lines under a heading."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [name in _NUMBERS for name in names]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join(line(values) for values in cells)
