"""How predictions look, and how they are kept until the mixes are measured.

Lives here: text, JSON and files of predictions. May touch: files that it is given. A prediction is never put into a
table of measurements: its columns are called ``predicted``, and its JSON has the kind ``prediction``.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtexp import __version__
from mtexp.text_tables import rounded

from .dataset import DataError
from .laws import in_words, sampled
from .predictor import OUTSIDE, Predicted, Predictor
from .rivals import Rival

KIND, FORMAT = "predictions", 1


@dataclass(frozen=True, slots=True)
class Frozen:
    """The file that a predictor was read from, and what was added to it."""

    predictor: str = ""
    """Hash of what was in the file; empty = nothing was added, or there was no file."""
    added: tuple[str, ...] = ()
    """Labels of models of which runs alone were added."""

    def to_json(self) -> dict[str, Any]:
        """For other programs; nothing where nothing was added."""
        return {"frozen": self.predictor, "added": list(self.added)} if self.predictor else {}

    def text(self) -> str:
        """What follows the hash of the whole."""
        return (
            f": {self.predictor} as it was frozen, with runs alone of {', '.join(self.added)}" if self.predictor else ""
        )


def mix_labels(token: str, known: Sequence[str] = ()) -> list[str]:
    """``bert_base*2+mistral_7b`` as labels of tenants; ``known`` ones are named in the error.

    Raises:
        DataError: It is no mix.
    """
    found: list[str] = []
    for part in token.split("+"):
        label, star, count = (side.strip() for side in part.partition("*"))
        if not label or (star and not (count.isdecimal() and 0 < int(count) <= 64)):
            there = f"; known: {', '.join(sorted(known))}" if known else ""
            raise DataError(f"mix {token!r}: allowed: models with a count, e.g. bert_base*2+mistral_7b{there}")
        found += [label] * (int(count) if star else 1)
    return found


def text(token: str, found: Mapping[str, Sequence[Predicted]], predictor: Predictor, *, width: int) -> str:
    """Predictions of one mix in all modes asked for, as text that fits into ``width`` columns."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    console.print(f"{token} on {predictor.device}: predicted, not measured")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("mode", "tenant", "predicted\nslowdown [90 %]", "predicted\nms"):  # fits 60 columns
        table.add_column(head, overflow="fold")
    for mode, tenants in found.items():
        for place, one in enumerate(tenants):
            label = one.label if one.count == 1 else f"{one.label} x{one.count}"
            table.add_row(mode if not place else "", label, _interval(one), f"~{rounded(one.latency_ms, 3)}")
        low, middle, high = stp_ends(tenants)
        known = all(one.high < math.inf for one in tenants)
        table.add_row(
            "", "STP", f"~{middle:.2f} [{low:.2f}, {high:.2f}]" if known else f"~{middle:.2f} [not known]", ""
        )
    console.print(table)
    for mode, tenants in found.items():
        console.print(f"{mode} {rests_on(predictor, mode, tenants)}.")
    if there := [mode for mode in found if _measured(predictor, mode, found[mode])]:
        console.print(f"Measured already under {', '.join(there)}: what was measured counts, and is in the report.")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _measured(predictor: Predictor, mode: str, tenants: Sequence[Predicted]) -> bool:
    mix = sorted(one.label for one in tenants for _ in range(one.count))
    return mix in [sorted(own) for own in predictor.fits[mode].measured]


def stp_ends(tenants: Sequence[Predicted]) -> tuple[float, float, float]:
    """Least, predicted and most STP of a mix: the ends are those of all tenants at once."""
    return (
        sum(one.count / one.high for one in tenants),
        sum(one.count / one.slowdown for one in tenants),
        sum(one.count / one.low for one in tenants),
    )


def _interval(one: Predicted) -> str:
    if one.high == math.inf:
        return f"~{one.slowdown:.2f} [{'outside' if one.basis == OUTSIDE else 'not known'}]"
    return f"~{one.slowdown:.2f} [{one.low:.2f}, {one.high:.2f}]"


def rests_on(predictor: Predictor, mode: str, tenants: Sequence[Predicted]) -> str:
    """What a prediction rests on, in words."""
    fit = predictor.fits[mode]
    alone = ", ".join(f"{one.label} ({predictor.lone[one.label].runs})" for one in tenants)
    new = [one.label for one in tenants if one.label not in fit.suffers]
    once = [one.label for one in tenants if fit.often(one.label) == 1]
    basis = f"{', '.join(new)} in no measured mix" if new else "every model in some measured mix"
    basis += f", {', '.join(once)} in one only" if once else ""
    unseen = [label for label in new if not sampled(fit.law, predictor.lone[label])]
    if unseen:
        basis += f", and no run alone in eager mode with GPU counters of {', '.join(unseen)}: one would tell more"
    beyond = [place for label in new for place in _outside(predictor, mode, label)]
    if beyond:
        near = "; ".join(
            f"{one['trait']} of {one['label']} alone {one['words']}, nearest learned {one['learned_words']}"
            for one in beyond
        )
        basis += f"; outside what was learned, so no interval is known: {near}"
    known = beyond or all(one.high < math.inf for one in tenants)
    unknown = "" if known else "; too few mixes like it were measured to know an interval"
    return f"rests on {fit.mixes} measured mixes and runs alone of {alone}; {basis}{unknown}"


def _outside(predictor: Predictor, mode: str, label: str) -> list[dict[str, Any]]:
    """What of a model lies outside what a mode was learnt from."""
    return [
        {
            "label": label,
            "trait": trait,
            "value": value,
            "learned": near,
            "words": in_words(trait, value),
            "learned_words": in_words(trait, near),
        }
        for trait, (value, near) in predictor.fits[mode].outside(predictor.lone[label]).items()
    ]


def as_json(
    token: str,
    found: Mapping[str, Sequence[Predicted]],
    predictor: Predictor,
    rivals: Mapping[str, Mapping[str, Rival]] | None = None,
) -> dict[str, Any]:
    """Predictions of one mix for other programs; ends are null where no interval is known.

    Args:
        token: The mix.
        found: By mode.
        predictor: That made them.
        rivals: By mode and name: what they say is put beside.
    """
    modes = []
    for mode, tenants in found.items():
        fit = predictor.fits[mode]
        low, middle, high = stp_ends(tenants)
        modes.append(
            {
                "mode": mode,
                "predicted_stp": middle,
                "predicted_stp_low": low,
                "predicted_stp_high": high,
                "tenants": [
                    {
                        "label": one.label,
                        "count": one.count,
                        "predicted_slowdown": one.slowdown,
                        "predicted_low": one.low if one.high < math.inf else None,
                        "predicted_high": one.high if one.high < math.inf else None,
                        "predicted_latency_ms": one.latency_ms,
                        "basis": one.basis,
                        "does": list(predictor.lone[one.label].does),
                        "rivals": _by_rivals(one, tenants, predictor, (rivals or {}).get(mode, {})),
                    }
                    for one in tenants
                ],
                "rests_on": {
                    "mixes": fit.mixes,
                    "runs_alone": {one.label: predictor.lone[one.label].runs for one in tenants},
                    "outside_what_was_learned": [
                        place for one in tenants for place in _outside(predictor, mode, one.label)
                    ],
                },
            }
        )
    return {"kind": "prediction", "mix": token, "device": predictor.device, "predictor": predictor.hash, "modes": modes}


def _by_rivals(
    one: Predicted, tenants: Sequence[Predicted], predictor: Predictor, rivals: Mapping[str, Rival]
) -> dict[str, float]:
    """Slowdowns by name of the rival that says one."""
    around = [predictor.lone[other.label] for other in tenants for _ in range(other.count - (other is one))]
    logs = {name: rival(predictor.lone[one.label], around) for name, rival in rivals.items()}
    return {name: math.exp(log) for name, log in logs.items() if log is not None}


# --- predictions that are kept ----------------------------------------------------------------------------------------


def not_measured(predictor: Predictor, modes: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Pairs of models alone that no measured mix of a mode is and that it can predict, each with those modes."""
    found: dict[tuple[str, str], list[str]] = {}
    for mode in modes:
        fit = predictor.fits[mode]
        names = sorted(name for name, lone in predictor.lone.items() if lone.execution == fit.execution)
        measured = set(fit.measured)
        for pair in itertools.combinations_with_replacement(names, 2):
            if pair not in measured:
                found.setdefault(pair, []).append(mode)
    return found


def kept(said: Sequence[Mapping[str, Any]], predictor: Predictor, frozen: Frozen | None = None) -> dict[str, Any]:
    """Predictions as they are kept until the mixes are measured: with when they were made, and what made them."""
    return {
        "kind": KIND,
        "format": FORMAT,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "mtexp": __version__,
        "predictor": predictor.hash,
        **(frozen or Frozen()).to_json(),
        "code": predictor.code,
        "predictions": list(said),
    }


def read_kept(path: Path) -> dict[str, Any]:
    """What :func:`kept` returned, from a file.

    Raises:
        DataError: There is no such file, or it is something else.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (found["kind"], found["format"]) == (KIND, FORMAT):
            return found
        why = f"kind={found['kind']}, format={found['format']}"
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, KeyError, TypeError) as error:
        why = f"not predictions of this version ({error})"
    raise DataError(f"--check {path}: {why}; mtexp predict ... --write FILE writes predictions")
