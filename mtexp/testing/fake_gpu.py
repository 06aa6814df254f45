"""What a fake GPU answers when :class:`mtexp.testing.nvml.FakeNvml` is asked about it. Lives here: FakeGpu, FakeMig."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Values = Mapping[str, float]


@dataclass(eq=False)
class FakeMig:
    """One MIG instance."""

    uuid: str
    profile: str = "1g.18gb"
    gi_id: int = 1
    ci_id: int = 0
    memory_mib: int = 18_000
    sm_count: int = 16


@dataclass(eq=False)
class FakeGpu:
    """One GPU and what it answers.

    ``codes`` holds NVML return codes by the names that the sampler's notes use: a function
    (``nvmlDeviceGetPowerUsage``), a field (``field 186``) or a GPM metric (``gpm 170``).
    """

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    name: str = "NVIDIA H200"
    memory_mib: int = 143_771
    cores: int = 16_896
    capability: tuple[int, int] = (9, 0)
    gpm: bool = True
    gpm_metrics_max: int = 210
    """Highest GPM metric that the driver knows: a question with a higher one is refused whole."""
    values: Values | Callable[[int], Values] = field(default_factory=dict)
    """Telemetry by column name, or a function of the monotonic time in ns that returns it."""
    codes: Mapping[str, int] = field(default_factory=dict)
    whole_gpu_codes: Mapping[str, int] = field(default_factory=dict)
    """The same for the whole GPU only: calls that a container with one of its MIG instances may not make."""
    unified_memory: bool = False
    """It uses the host's memory (GB10, Jetson), and does not answer for its own."""
    compute: Sequence[tuple[int, int | None]] = ()
    """(pid, bytes) of compute processes; None: the driver does not say how much."""
    mps: Sequence[tuple[int, int | None]] = ()
    graphics: Sequence[tuple[int, int | None]] = ()
    process_util: Sequence[tuple[int, int]] = ()
    """(pid, SM percent)."""
    host_pids: Mapping[int, int] = field(default_factory=dict)
    """How the host numbers a process of a pid namespace, which is how NVML names it; others keep their number."""
    withholds_memory: bool = False
    """It says 0 bytes for every process, as in some containers."""
    mig_mode: int | None = 0
    """None: a GPU without MIG."""
    instances: Sequence[FakeMig] = ()
    profiles: Sequence[str] = ("1g.18gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb")
    events: list[tuple[int, int]] = field(default_factory=list)
    """(type, data) not yet collected."""
