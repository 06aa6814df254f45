"""Configuration: composed by Hydra, checked, and frozen into a RunSpec. Only this package reads omegaconf.

Entry points: :func:`mtexp.config.plan.plan` for a command line, :func:`compose_spec` for tests and notebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mtexp.config.composer import CONF_DIR, Composer
from mtexp.config.convert import to_spec
from mtexp.config.hardware import Hardware, hardware_of
from mtexp.config.sections import SectionedComposer
from mtexp.host import Device
from mtexp.spec import RunSpec

__all__ = ["CONF_DIR", "Composer", "Hardware", "compose_spec", "to_spec"]


@cache
def _composer() -> SectionedComposer:
    return SectionedComposer(Composer())


def compose_spec(overrides: Sequence[str] = (), device: Device | None = None) -> RunSpec:
    """Return the run that ``overrides`` describe, e.g. ``["mix=bert_base*2", "precision=bf16"]``.

    Files of ``conf/`` are read once a process.

    Args:
        overrides: As typed after ``python run.py``, one value each.
        device: GPU of the assumed host; None = a host with a CPU only.

    Raises:
        ConfigError: The configuration cannot be run.
        HydraException: Hydra cannot compose it.
    """
    return to_spec(_composer().config(overrides), hardware_of(device))
