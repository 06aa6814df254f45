"""What a tenant process takes over from its job, first of all, and its libraries. May touch: torch's threads, signals,
its log.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
from importlib import metadata

import torch

from mtexp.tenant.job import ProcessJob

_PR_SET_PDEATHSIG = 1


def take_surroundings(job: ProcessJob) -> None:
    """End with the parent, leave Ctrl-C to it, write to the log, take the environment and the cores given."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable(2)  # where a segmentation fault was, in the log
    for name, value in job.environment.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    torch.set_num_threads(1)  # the same alone and shared: more threads for a lone tenant would look like interference


def library_versions() -> dict[str, str]:
    """The versions of torch and transformers; a tenant that is no model of transformers has not imported it."""
    transformers = sys.modules.get("transformers")
    version = metadata.version("transformers") if transformers is None else transformers.__version__
    return {"torch_version": torch.__version__, "transformers_version": version}
