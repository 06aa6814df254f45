"""Churn runs: their keys, and their checks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from mtexp.config.checks import above, at_least
from mtexp.errors import ConfigError
from mtexp.metrics.churn import KINDS, NEED_GPU
from mtexp.spec import ArrivalSpec, ChurnSpec, TenantSpec

ChurnEvent = Enum("ChurnEvent", list(KINDS))  # type: ignore[misc]


@dataclass(kw_only=True)
class ChurnConfig:
    """Events of a neighbour beside a steady tenant (``experiment=churn``)."""

    repeats: int = 0
    """Events of each kind; 0 = no churn run. From 30 on, figures have intervals."""
    events: list[ChurnEvent] = field(default_factory=list)
    """Kinds of events; empty = all that the device can do."""
    window_s: float = 5.0
    """Seconds after each event in which the steady tenant is looked at."""
    per_life: int = 1
    """Events of ``quiet``, ``beside``, ``memory`` and ``oom`` in one life of a neighbour: more take less time."""
    limit_s: float = 0.0
    """No event begins later than this after the first, once the sharing mode is proven; 0 = no limit."""


def churn_spec(config: ChurnConfig, runtime: str, mix: str, tenants: Sequence[TenantSpec]) -> ChurnSpec:
    """The events of a run; none where it is no churn run.

    Raises:
        ConfigError: The run cannot have these events.
    """
    at_least("churn.repeats", config.repeats, 0)
    if not config.repeats:
        return ChurnSpec()
    above("churn.window_s", config.window_s, 0)
    at_least("churn.per_life", config.per_life, 1)
    at_least("churn.limit_s", config.limit_s, 0)
    if len(tenants) != 2:
        remedy = "The first is steady, the second comes and goes: mix=bert_base+llama_3_2_1b."
        raise ConfigError("mix", mix, "two tenants in a churn run", remedy)
    if servers := [tenant.id for tenant in tenants if tenant.model.server is not None]:
        what = "tenants of mtexp's own in a churn run"
        raise ConfigError("mix", f"{mix} ({', '.join(servers)} is a server)", what, "Choose models.")
    steady = tenants[0]
    if steady.arrival.kind == "closed":
        remedy = "Use arrival=constant arrival.load=0.3, as experiment=churn does."
        raise ConfigError("arrival", "closed", "poisson, constant, trace for the steady tenant", remedy)
    asked = tuple(dict.fromkeys(event.name for event in config.events))
    possible = tuple(kind for kind in KINDS if runtime == "gpu" or kind not in NEED_GPU)
    if unable := [kind for kind in asked if kind not in possible]:
        allowed = f"{', '.join(possible)} on the CPU"
        raise ConfigError("churn.events", ",".join(unable), allowed, "Leave it out, or run on a GPU.")
    kinds = tuple(kind for kind in possible if kind in asked) if asked else possible
    return ChurnSpec(
        events=kinds,
        repeats=config.repeats,
        window_s=config.window_s,
        per_life=config.per_life,
        limit_s=config.limit_s,
    )


def with_neighbour(tenants: tuple[TenantSpec, ...]) -> tuple[TenantSpec, ...]:
    """The tenants of a churn run: the arrivals are those of the steady one, its neighbour serves back to back."""
    return (tenants[0], *(replace(tenant, arrival=ArrivalSpec()) for tenant in tenants[1:]))
