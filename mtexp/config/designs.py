"""Which design a run has, crossover or sustained, and whether what was asked for goes with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mtexp.config.checks import above
from mtexp.config.schema import Config, Design, Overlap
from mtexp.errors import ConfigError
from mtexp.spec import TenantSpec


def design_of(config: Config, tenants: tuple[TenantSpec, ...]) -> str:
    """Return ``crossover`` or ``sustained``: what was asked for, else crossover wherever it is possible.

    Raises:
        ConfigError: Crossover was asked for, and something else that does not go with it; or a bound is no bound.
    """
    measure = config.measure
    above("measure.target_pct", measure.target_pct, 0)
    above("measure.max_time_s", measure.max_time_s, 0)
    if measure.block_ms is not None:
        above("measure.block_ms", measure.block_ms, 0)
    obstacle = next(_against_crossover(config, tenants), None)
    if measure.design is Design.crossover and obstacle is not None:
        raise obstacle
    return "sustained" if measure.design is Design.sustained or obstacle is not None else "crossover"


def why_sustained(config: Config, tenants: tuple[TenantSpec, ...]) -> str:
    """Say why a mix in closed loop is not measured in turns, where nobody decided that; else return "".

    One tenant has nothing to take turns with, and open loop has no slowdown: these need no explanation.
    """
    if config.measure.design is not None or len(tenants) < 2 or any(t.arrival.kind != "closed" for t in tenants):
        return ""
    obstacle = next(_against_crossover(config, tenants), None)
    if obstacle is None:
        return ""
    return (
        f"{config.mix.name} is measured with measure.design=sustained, against baselines in runs of their own, "
        f"because of {obstacle.key}={obstacle.value}"
    )


def _against_crossover(config: Config, tenants: tuple[TenantSpec, ...]) -> Iterator[ConfigError]:
    """What does not go with blocks alone and together, each as the error it is where crossover was asked for."""
    sustained = "or use measure.design=sustained"
    if len(tenants) < 2:
        what = "a mix of two tenants or more with measure.design=crossover"
        yield ConfigError("mix", config.mix.name, what, f"Add a tenant, {sustained}.")
    for tenant in tenants:
        if tenant.arrival.kind != "closed":
            what = "closed with measure.design=crossover (requests that come at given instants cannot wait for a block)"
            yield ConfigError("arrival", tenant.arrival.kind, what, f"Use arrival=closed, {sustained}.")
    if config.measure.overlap is Overlap.fixed:
        what = "sustained with measure.design=crossover"
        yield ConfigError("measure.overlap", "fixed", what, f"Drop it, {sustained}.")
    if config.measure.until_ci_pct:
        what = "0 with measure.design=crossover, which stops at measure.target_pct"
        yield ConfigError("measure.until_ci_pct", config.measure.until_ci_pct, what, f"Drop it, {sustained}.")
    for name, why in (
        ("recheck", "baselines are measured in turns with the mix"),
        ("partitioned", "the alone blocks are under the run's MPS limits already"),
    ):
        if getattr(config.baseline, name):
            what = f"false with measure.design=crossover ({why})"
            yield ConfigError(f"baseline.{name}", "true", what, f"Drop it, {sustained}.")
