"""Starting, watching and stopping tenant processes. May touch: subprocess, multiprocessing, signals; never torch."""

from mtexp.launch.cores import CorePlan, by_physical_core, leased_cores, missing_cores, plan_cores
from mtexp.launch.group import TenantGroup
from mtexp.launch.part import Part, cores_of_all
from mtexp.launch.server import Servers
from mtexp.launch.starters import ForkserverStarter, InterpreterStarter, Starter

__all__ = [
    "CorePlan",
    "ForkserverStarter",
    "InterpreterStarter",
    "Part",
    "Servers",
    "Starter",
    "TenantGroup",
    "by_physical_core",
    "cores_of_all",
    "leased_cores",
    "missing_cores",
    "plan_cores",
]
