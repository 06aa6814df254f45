"""In which order the points of a sweep run. Pure: the plan, Hydra's sweeper and the Python API all use it.

What drifts in the hours of a sweep (temperature, other users of the host) would otherwise look like an effect of
whatever is written last. Repetitions are passes over all points, so those of one point are spread over the sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_REPETITION = "repetition="
_SHARING = ("mps_settings=", "mps_settings.", "sharing=", "sharing.")


def random_order(points: Sequence[Sequence[str]], seed: int) -> list[int]:
    """Return the indices of ``points`` in the order in which they run: pass by pass, each in an order of its own.

    The same points and the same seed give the same order. Points that differ only in how tenants share follow each
    other, in random order too: what is compared lies close together, and may be measured side by side.

    Args:
        points: Overrides of each point, as written.
        seed: Of the sweep.
    """
    passes: dict[str, list[int]] = {}
    for number, overrides in enumerate(points):
        passes.setdefault(_repetition(overrides), []).append(number)
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for numbers in passes.values():
        alike: dict[tuple[str, ...], list[int]] = {}
        for number in numbers:
            alike.setdefault(_without_sharing(points[number]), []).append(number)
        groups = list(alike.values())
        for place in rng.permutation(len(groups)):
            order += [groups[place][own] for own in rng.permutation(len(groups[place]))]
    return order


def _without_sharing(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in overrides if not text.lstrip("+").startswith(_SHARING))


def _repetition(overrides: Sequence[str]) -> str:
    return next((text for text in reversed(overrides) if text.lstrip("+").startswith(_REPETITION)), "")
