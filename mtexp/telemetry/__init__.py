"""Device telemetry: the sampler process and the summary of its samples.

Lives here: the only speaker of NVML (``nvml``: asked once; ``gpu``: polled), the probes that read one row of values
(``probes``), the sampler process (``sampler``), its file (``table``) and the summary over a window (``summary``). May
touch: NVML, psutil, multiprocessing, one Parquet file.
"""

from mtexp.telemetry.nvml import (
    GpuProcess,
    chosen,
    facts,
    find_devices,
    mig_device,
    processes,
)
from mtexp.telemetry.occupants import Occupants, identify
from mtexp.telemetry.sampler import Sampler, open_sampler
from mtexp.telemetry.summary import TelemetrySummary, over_spans, read
from mtexp.telemetry.table import load, take_part

__all__ = [
    "GpuProcess",
    "Occupants",
    "Sampler",
    "TelemetrySummary",
    "chosen",
    "facts",
    "find_devices",
    "identify",
    "load",
    "mig_device",
    "open_sampler",
    "over_spans",
    "processes",
    "read",
    "take_part",
]
