"""Starting, watching and stopping tenant processes. May touch: subprocess, multiprocessing, signals; never torch."""

from mtexp.launch.cores import CorePlan, by_physical_core, leased_cores, missing_cores, plan_cores
from mtexp.launch.group import TenantGroup
from mtexp.launch.server import Servers
from mtexp.launch.starters import ForkserverStarter, InterpreterStarter, Starter

__all__ = [
    "CorePlan",
    "ForkserverStarter",
    "InterpreterStarter",
    "Servers",
    "Starter",
    "TenantGroup",
    "by_physical_core",
    "leased_cores",
    "missing_cores",
    "plan_cores",
]
