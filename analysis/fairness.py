"""Fairness of points and of averages over mixes, as figures with draws of their error.

Lives here: :class:`Progress`, :func:`true_fairness`. May touch: nothing outside its arguments. The estimator is that of
:mod:`mtexp.metrics.evenness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtexp.metrics.evenness import fairness_without_noise, mean_fairness_without_noise
from mtexp.metrics.repeats import Estimate
from mtexp.metrics.samples import Floats


@dataclass(frozen=True, eq=False)
class Progress:
    """Measured progress of the tenants of a mix."""

    logs: Floats
    """Logarithms of normalized progress, shape (tenants,)."""
    errors: Floats
    """Draws of their errors, shape (tenants, draws)."""


def true_fairness(mixes: Sequence[Progress]) -> Estimate:
    """Fairness of a mix, or the geometric mean of that of several, with the noise taken off.

    Args:
        mixes: One or more. Their draws belong together: what two mixes share has the same error in both.
    """
    progress, errors = [np.exp(mix.logs) for mix in mixes], [mix.errors for mix in mixes]
    found = (
        fairness_without_noise(progress[0], errors[0])
        if len(mixes) == 1
        else mean_fairness_without_noise(progress, errors)
    )
    return Estimate(found.value, np.log(found.draws / found.value), most=1.0)
