"""In which order the points of a sweep run. Pure: the plan, Hydra's sweeper and the Python API come to the same one.

What drifts in the hours of a sweep (temperature, other users of the host) would otherwise look like an effect of
whatever is written last. Repetitions are passes over all points, so those of one point are spread over the sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_REPETITION = "repetition="


def random_order(points: Sequence[Sequence[str]], seed: int) -> list[int]:
    """Return the indices of ``points`` in the order in which they run: pass by pass, each in an order of its own.

    The same points and the same seed give the same order.

    Args:
        points: Overrides of each point, as written.
        seed: Of the sweep.
    """
    passes: dict[str, list[int]] = {}
    for number, overrides in enumerate(points):
        passes.setdefault(_repetition(overrides), []).append(number)
    rng = np.random.default_rng(seed)
    return [numbers[place] for numbers in passes.values() for place in rng.permutation(len(numbers))]


def _repetition(overrides: Sequence[str]) -> str:
    return next((text for text in reversed(overrides) if text.lstrip("+").startswith(_REPETITION)), "")
