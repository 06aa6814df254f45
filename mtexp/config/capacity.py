"""Checks the settings of a capacity search. Pure."""

from __future__ import annotations

from mtexp.config.checks import above, at_least, within
from mtexp.config.schema import Arrival, CapacityConfig, Config, SearchBy
from mtexp.errors import ConfigError
from mtexp.metrics.capacity import Rule, needed_window_s
from mtexp.metrics.latency import min_iterations
from mtexp.spec import RunSpec

SWEEPER = "hydra_plugins.mtexp_capacity.CapacitySweeper"
_LOADS = {"low": 0.05, "high": 1.0}
_MAX_LOAD = 100
_MIN_TOLERANCE_PCT = 0.5


def search_rule(config: Config, spec: RunSpec) -> Rule:
    """Return the rule of the capacity search that ``config`` and its run ``spec`` ask for.

    Raises:
        ConfigError: No tenant has a service level or open-loop arrivals, or bounds or iterations are not valid.
    """
    c = config.capacity
    bounds = {name: _bound(c, name) for name in _LOADS}
    if bounds["low"] >= bounds["high"]:
        remedy = "Lower it, or raise capacity.high."
        raise ConfigError("capacity.low", bounds["low"], f"less than capacity.high={bounds['high']:g}", remedy)
    within("capacity.tolerance_pct", c.tolerance_pct, _MIN_TOLERANCE_PCT, 100)
    at_least("capacity.max_probes", c.max_probes, 2)
    _check_arrivals(config)
    _check_levels(config, spec)
    return Rule(
        by=c.by.name,
        attainment_pct=c.attainment_pct,
        tolerance_pct=c.tolerance_pct,
        max_probes=c.max_probes,
        **bounds,
    )


def _bound(capacity: CapacityConfig, name: str) -> float:
    key, value = f"capacity.{name}", getattr(capacity, name)
    if value is None:
        if capacity.by is SearchBy.rate:
            remedy = f"Set {key} to requests a second of each tenant, or search with capacity.by=load."
            raise ConfigError(key, "null", "a number with capacity.by=rate", remedy)
        return _LOADS[name]
    above(key, value, 0)
    if capacity.by is SearchBy.load:
        within(key, value, 0, _MAX_LOAD)
    return float(value)


def _check_arrivals(config: Config) -> None:
    """Refuse arrivals that do not depend on a rate."""
    kind = config.arrival.kind
    if kind in (Arrival.closed, Arrival.trace):
        remedy = "Use arrival=poisson; a single tenant may have mix.tenants.ID.arrival.kind=closed."
        raise ConfigError("arrival", kind.name, "poisson, constant (the search varies the rate)", remedy)
    for tenant in config.mix.tenants.values():
        own = tenant.arrival
        if own.rate is None and own.load is None and own.kind in (None, Arrival.poisson, Arrival.constant):
            return
    remedy = "Remove these settings from at least one tenant, so that its rate can be searched."
    what = "a tenant without its own arrival settings"
    raise ConfigError("mix.tenants", f"{config.mix.name} (every tenant has its own rate, load or trace)", what, remedy)


def _check_levels(config: Config, spec: RunSpec) -> None:
    """Refuse a search without a service level, or with too few requests to judge one."""
    c, measure = config.capacity, config.measure
    if not any(tenant.slo_ms or tenant.slo_factor for tenant in spec.tenants):
        entry = next(iter(config.mix.tenants))
        remedy = f"Set mix.tenants.{entry}.slo_ms=20, or slo_factor=2 (of its baseline)."
        raise ConfigError("mix.tenants", spec.mix, "a mix in which a tenant has a service level", remedy)
    if not 0 < c.attainment_pct < 100:
        remedy = "Set capacity.attainment_pct=99."
        raise ConfigError("capacity.attainment_pct", c.attainment_pct, "between 0 and 100, both excluded", remedy)
    needed = min_iterations(c.attainment_pct)
    if measure.iterations < needed:
        allowed = f"at least {needed} to judge an attainment of {c.attainment_pct:g} % (99 % confidence)"
        remedy = f"Set measure.iterations={round(needed * 1.05) + 1}, or lower capacity.attainment_pct."
        raise ConfigError("measure.iterations", measure.iterations, allowed, remedy)
    needed_s = needed_window_s(max(tenant.slo_ms for tenant in spec.tenants))
    if measure.min_time_s < needed_s:
        allowed = f"at least {needed_s:g} with these levels, so that a growing queue becomes visible"
        raise ConfigError("measure.min_time_s", measure.min_time_s, allowed, f"Set measure.min_time_s={needed_s:g}.")
