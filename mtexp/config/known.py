"""What is known to go wrong with a plan, before anything starts.

May touch: the table of known SM counts, the environment (reading).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from mtexp.host import Device, torch_versions
from mtexp.sharing.known_numerics import known_wrong
from mtexp.spec import RunSpec


def warnings(specs: Iterable[RunSpec], gpus: Sequence[Device]) -> tuple[str, ...]:
    """Sentences about percentages that compute wrong results on the GPUs of this host; each percentage once.

    Args:
        specs: Every point.
        gpus: Where they may run; those that a scheduler chooses are not known and bring no warning.
    """
    torch, cuda = torch_versions()
    asked = {
        (gpu.name, gpu.sm_count, tenant.precision, tenant.mps.active_thread_pct)
        for spec in specs
        if spec.runtime == "gpu" and spec.sharing.mps_mode != "disabled"
        for tenant in spec.tenants
        if tenant.model.role != "stressor"
        for gpu in gpus
        if spec.device in ("", gpu.uuid)
    }
    found = {}
    for name, sms, precision, percentage in sorted(asked, key=str):
        known = known_wrong(gpu=name, torch=torch, cuda=cuda, precision=precision, percentage=percentage)
        if known is not None and sms in (None, known.sms):
            near = " and ".join(f"{right:g} %" for right in known.right_near(percentage))
            found[percentage, precision] = (
                f"{percentage:g} % of the SMs gives wrong {precision} results on {name} with {known.library}: such "
                f"runs come out INVALID (wrong-output). Right near by: {near}. "
                "python -m mtexp.sharing.numerics lists all"
            )
    return tuple(found.values())


def too_few_cores(specs: Iterable[RunSpec], cores: int | None) -> tuple[str, ...]:
    """Sentences about mixes that are to be measured in turns and have more tenants than this host has cores.

    Args:
        specs: Every point.
        cores: CPU cores that the tenants may use; None = not known.
    """
    crowded = {spec.mix: len(spec.tenants) for spec in specs if spec.measure.design == "crossover"}
    return tuple(
        f"{mix} has {tenants} tenants for {cores} CPU cores: what they wait for a core will look like interference on "
        "the GPU. Use fewer tenants, or a host with more cores"
        for mix, tenants in crowded.items()
        if cores is not None and tenants > cores
    )


def unread_experiment(specs: Iterable[RunSpec]) -> tuple[str, ...]:
    """A sentence about MLflow's variable for the name of an experiment, where the records go to another one.

    Args:
        specs: Every point.
    """
    variable = "MLFLOW_EXPERIMENT_NAME"
    name = os.environ.get(variable, "")
    others = sorted({spec.tracking.experiment for spec in specs if spec.tracking.enabled} - {name})
    return tuple(
        f"{variable}={name} is not read: the records go to the experiment {other} (tracking.experiment)"
        for other in others
        if name
    )


def overloaded(specs: Iterable[RunSpec]) -> tuple[str, ...]:
    """Sentences about loads that a tenant cannot serve even alone; each load once.

    Args:
        specs: Every point.
    """
    loads = sorted({tenant.arrival.load for spec in specs for tenant in spec.tenants if tenant.arrival.load > 1})
    return tuple(
        f"arrival.load={load:g} is more than a tenant serves alone (1): its queue grows until the run ends, so its "
        "latency says only how long the run was"
        for load in loads
    )
