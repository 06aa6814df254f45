"""Tables of text that fit a terminal: columns are left out before a word is broken. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

ABSENT = "-"
_MOST_PLAIN = 1e9
GAP = 2
"""Spaces between columns of plain text."""
DRAWN_GAP = 3
"""Spaces between columns of a drawn table."""
_SHORTEST = 8
"""Characters that a text keeps."""
DROPPED_FIRST = (
    *("launch-bound %", "fairness", "precision", "p90 ms", "tenants", "req/s", "p99 ms", "p99 alone"),
    *("p50 ms", "p50 alone", "model", "goodput/s", "requests", "ANTT", "alone ms", "mps_settings", "mean ms"),
)
"""Columns that a narrow terminal does without, in the order in which they go."""


def filled(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return ``rows`` without the columns that have a value in no row."""
    empty = {name for name in rows[0] if all(row[name] in ("", ABSENT) for row in rows)}
    return [without(row, empty) for row in rows]


def fitting(
    rows: Sequence[Mapping[str, str]], width: int, dropped_first: Sequence[str] = DROPPED_FIRST, gap: int = DRAWN_GAP
) -> list[dict[str, str]]:
    """Return ``rows`` with as many columns as fit a table of ``width`` characters, drawn or (``gap=GAP``) plain.

    If what cannot be left out is still too wide, the widest texts are cut at their end, none shorter than
    the next.
    """
    kept = [dict(row) for row in rows]
    for name in dropped_first:
        if _width(kept, gap) <= width:
            return kept
        kept = [without(row, {name}) for row in kept]
    while (excess := _width(kept, gap) - width) > 0:
        widths = {name: wide for name, wide in _widths(kept).items() if wide > max(len(name), _SHORTEST)}
        if not widths:  # only headings are left to cut: the terminal wraps the line
            break
        name = max(widths, key=lambda column: widths[column])
        next_widest = max((wide for column, wide in widths.items() if column != name), default=0)
        most = max(len(name), widths[name] - excess, min(next_widest, widths[name] - 1), _SHORTEST)
        kept = [{**row, name: row[name] if len(row[name]) <= most else f"{row[name][: most - 1]}…"} for row in kept]
    return kept


def without(row: Mapping[str, str], columns: Collection[str]) -> dict[str, str]:
    """Return ``row`` without ``columns``."""
    return {name: value for name, value in row.items() if name not in columns}


def plain_table(rows: Sequence[Mapping[str, str]], numbers: Collection[str]) -> str:
    """Return ``rows`` (all with the same keys) as aligned lines under a heading; ``numbers`` are set to the right."""
    widths = _widths(rows)

    def line(row: Mapping[str, str]) -> str:
        cells = (row[n].rjust(w) if n in numbers else row[n].ljust(w) for n, w in widths.items())
        return (" " * GAP).join(cells).rstrip()

    return "\n".join([line({name: name for name in widths}), *map(line, rows)])


def rounded(value: float, digits: int) -> str:
    """``value`` with so many significant digits; whole numbers below a thousand million without a power of ten."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < _MOST_PLAIN else text


def counted(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``, ``1,000 mixes``."""
    ending = "" if count == 1 else "es" if noun.endswith(("ch", "x")) else "s"
    return f"{count:,} {noun}{ending}"


def about(seconds: float) -> str:
    """``about 40 s``, ``about 12 min``, ``about 3.5 h``."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _widths(rows: Sequence[Mapping[str, str]]) -> dict[str, int]:
    return {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}


def _width(rows: Sequence[Mapping[str, str]], gap: int) -> int:
    widths = _widths(rows)
    return sum(widths.values()) + gap * len(widths)
