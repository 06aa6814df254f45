"""What a profiler wraps: ``python -m mtexp.profile_session SESSION.json`` runs the tenants of one profiling pass.

One process starts all tenants as fresh interpreters, so that they share the profiler's session and its clock. The
sharing mode is up already, outside the session: a profiler must not trace, or wait for, an MPS daemon.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtexp.errors import MtexpError
from mtexp.evaluation import Comparison, Origin, evaluate
from mtexp.host import Device
from mtexp.launch import InterpreterStarter
from mtexp.measurement import Measurement, measure_in
from mtexp.sharing import SharingMode
from mtexp.spec import RunSpec, from_json, to_json
from mtexp.tracking import record as records


class Inherited(SharingMode):
    """A sharing mode that the parent has brought up, looks after and proves; here it only places the tenants."""

    mode = "inherited"

    def __init__(self, session: Session) -> None:
        folder = Path(session.folder)
        super().__init__(from_json(RunSpec, session.spec), from_json(Device, session.device), folder)
        self._groups = tuple(tuple(group) for group in session.groups)
        self._environments = dict(zip(self._groups, session.environments, strict=True))

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Return the tenant ids of each process."""
        return self._groups

    def environment(self, tenant_ids: Sequence[str]) -> dict[str, str]:
        """Return the environment that the parent's mode gave."""
        return dict(self._environments[tuple(tenant_ids)])

    def _look(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One pass under a profiler."""

    spec: dict[str, Any]
    device: dict[str, Any]
    folder: str
    groups: list[list[str]]
    environments: list[dict[str, str]]
    origin: dict[str, Any]
    config: str = ""

    @classmethod
    def of(
        cls, spec: RunSpec, device: Device, folder: Path, sharing: SharingMode, origin: Origin, config: str
    ) -> Session:
        """The session of ``spec`` under ``sharing``, which is up."""
        groups = [list(group) for group in sharing.groups()]
        return cls(
            spec=to_json(spec),
            device=asdict(device),
            folder=str(folder),
            groups=groups,
            environments=[sharing.environment(group) for group in groups],
            origin=asdict(origin),
            config=config,
        )


def main(path: Path) -> int:
    """Run the session and leave its record in its folder; 1 when a tenant failed."""
    session = Session(**json.loads(path.read_text()))
    sharing, result = Inherited(session), Measurement()
    spec, folder = sharing.spec, sharing.work_dir
    try:
        measure_in(sharing, spec, sharing.device, folder, InterpreterStarter(), result)
    except MtexpError as error:
        result.failure = error
    record = evaluate(spec, result, folder, Comparison(), Origin(**session.origin))
    records.save(record, folder, result.samples, config=session.config)
    if result.failure is not None:
        sys.stderr.write(f"{result.failure}\n")
    return int(result.failure is not None)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
