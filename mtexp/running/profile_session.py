"""What a profiler wraps: ``python -m mtexp.running.profile_session SESSION.json`` runs the tenants of one pass.

It leaves its record beside SESSION.json, for the pass to read: it holds times that the profiler has stretched.

One process starts all tenants as fresh interpreters, so that they share the profiler's session and its clock. A private
MPS daemon is up already, outside the session, and attached to as an external one: a profiler must not trace it, or wait
for it to end.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mtexp.errors import RecordError
from mtexp.host import Device
from mtexp.launch import InterpreterStarter
from mtexp.records import record as records
from mtexp.running.bare_record import RecordContext
from mtexp.running.evaluation import Comparison, evaluate
from mtexp.running.measured import Setup
from mtexp.running.measurement import measure
from mtexp.spec import RunSpec, from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One pass under a profiler, as JSON data."""

    spec: dict[str, Any]
    device: dict[str, Any]
    folder: str
    """Folder of logs and sample buffers."""
    origin: dict[str, Any]
    pipe_directory: str = ""
    """Pipe directory of the running MPS daemon; empty = the mode needs none."""
    owner: int
    """Pid of the run that this pass belongs to: when it is gone, the session ends."""

    @classmethod
    def of(
        cls, spec: RunSpec, device: Device, folder: Path, origin: RecordContext, pipe_directory: str = ""
    ) -> Session:
        """The session of ``spec`` on ``device``."""
        return cls(
            spec=to_json(spec),
            device=asdict(device),
            folder=str(folder),
            origin=asdict(origin),
            pipe_directory=pipe_directory,
            owner=os.getpid(),
        )


def main(path: Path) -> int:
    """Run the session and leave its record beside ``path``; 1 when it failed, with the reason on stderr."""
    session = Session(**json.loads(path.read_text()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what Ctrl-C does: tenants are stopped in order
    threading.Thread(target=end_with, args=(session.owner,), daemon=True).start()
    spec, folder = from_json(RunSpec, session.spec), Path(session.folder)
    run = spec
    if session.pipe_directory:
        external = replace(spec.sharing, mps_mode="external", pipe_directory=session.pipe_directory)
        run = replace(spec, sharing=external)
    device = from_json(Device, session.device)
    measured = measure(run, folder, Setup(device, InterpreterStarter()))
    record = evaluate(spec, measured, folder, Comparison(), RecordContext(**session.origin))
    failure = measured.failure
    try:
        records.save(record, path.parent, {})
    except RecordError as error:
        failure = failure or error
    if failure is not None:
        sys.stderr.write(f"{failure}\n")
    return int(failure is not None)


def end_with(pid: int) -> None:
    """Send this process SIGTERM once the process ``pid`` has gone.

    A profiler is between the two, so no pipe, and no death signal, comes through when the run is killed.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        pass
    except OSError:  # a kernel before 5.3: the deadlines end the session then
        return
    else:
        select.select([handle], [], [])
        os.close(handle)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    gc.freeze()  # what was imported stays
    try:
        sys.exit(main(Path(sys.argv[1])))
    finally:
        gc.freeze()  # else the interpreter, as it ends, goes through everything
