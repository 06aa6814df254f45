"""Which design a run has, crossover or sustained, and whether what was asked for goes with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mtexp.config.checks import above
from mtexp.config.schema import Config, Design, Overlap, SharingMode
from mtexp.errors import ConfigError
from mtexp.spec import TenantSpec

_WHOLE_PCT = 100.0


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
    if measure.design is Design.crossover:
        if obstacle is not None:
            raise obstacle
        return "crossover"
    unlimited = obstacle is None and not _limit(config, tenants)
    return "crossover" if unlimited and measure.design is None else "sustained"


def why_sustained(config: Config, tenants: tuple[TenantSpec, ...]) -> str:
    """Return why a mix in closed loop is not measured in turns, if the user did not choose that; else "".

    One tenant has nothing to take turns with, and open loop has no slowdown: these need no explanation.
    """
    if config.measure.design is not None or len(tenants) < 2 or any(t.arrival.kind != "closed" for t in tenants):
        return ""
    obstacle = next(_against_crossover(config, tenants), None)
    reason = f"{obstacle.key}={obstacle.value}" if obstacle else _limit(config, tenants)
    if not reason:
        return ""
    return (
        f"{config.mix.name} is measured with measure.design=sustained, against baselines in runs of their own, "
        f"because of {reason}"
        + ("" if obstacle else "; measure.design=crossover measures it side by side with mps_settings=disabled")
    )


def _limit(config: Config, tenants: tuple[TenantSpec, ...]) -> str:
    """What keeps tenants from the whole device; "" = nothing.

    The alone blocks of a crossover run would be under the same limit, so its slowdown would hide what the limit costs.
    """
    if config.sharing.mode in (SharingMode.green_contexts, SharingMode.mig):
        return f"sharing={config.sharing.mode.name} (alone blocks would have the same part of the device)"
    if any(0 < t.mps.active_thread_pct < _WHOLE_PCT or t.mps.sm_partition for t in tenants):
        return f"mps_settings={config.mps_settings.name} (alone blocks would have the same share of the SMs)"
    return ""


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
