"""Tidy tables of what was measured: one function a table, from :class:`analysis.pooling.Results` to a DataFrame.

Lives here: the tables that figures, findings and the report show. May touch: nothing outside its arguments. Columns are
the keys of :mod:`mtexp.records.keys`, intervals ``<key>_ci_low`` and ``<key>_ci_high``; a table with nothing to show
is empty.
"""

from .by_point import (
    combinations,
    fairness,
    impossible,
    overview,
    power_limited,
    scaling,
    verdicts,
    without_baseline,
)
from .by_tenant import (
    by_setting,
    event_timer,
    in_kind_order,
    load_curve,
    matrix_pairs,
    pairs,
    sensitivity,
    shares,
    tenants,
)
from .columns import compared_within_mode, figure_on_whole_device, on_whole_device, with_intervals
from .models_alone import baselines, busy_alone
from .one_axis import one_axis
from .side_by_side import side_by_side

__all__ = [
    "baselines",
    "busy_alone",
    "by_setting",
    "combinations",
    "compared_within_mode",
    "event_timer",
    "fairness",
    "figure_on_whole_device",
    "impossible",
    "in_kind_order",
    "load_curve",
    "matrix_pairs",
    "on_whole_device",
    "one_axis",
    "overview",
    "pairs",
    "power_limited",
    "scaling",
    "sensitivity",
    "shares",
    "side_by_side",
    "tenants",
    "verdicts",
    "with_intervals",
    "without_baseline",
]
