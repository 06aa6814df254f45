"""The places that a run needs: whether they can be written, and the one message that says why not.

May touch: the folder of the runs, the lease directory.
"""

from __future__ import annotations

from pathlib import Path

from mtexp.errors import HostError
from mtexp.leases import check_leases
from mtexp.output import say

_PROBE_BYTES = 2**20


def can_lease() -> bool:
    """Whether runs of this process can lease a device; says so if not."""
    try:
        check_leases()
    except HostError as error:
        say(f"{error}\n", error=True)
        return False
    return True


def can_write(folder: Path) -> bool:
    """Whether the folder of the runs can be written; says so if not, which Hydra would do with a traceback."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        say(f"{cannot_write(folder, error)}\n", error=True)
        return False
    return True


def cannot_write(folder: Path, error: OSError) -> str:
    """Return what is wrong with the folder of the runs, and what to do."""
    remedy = "Make room or choose another place with hydra.run.dir (hydra.sweep.dir in a sweep)."
    return f"{folder} cannot be written: {error.strerror or error}. {remedy}"
