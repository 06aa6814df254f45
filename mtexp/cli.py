"""The command line: plan, refuse or run, sum up. May touch: config, runner, console; Hydra through ``hydra.main``.

A command line is planned first (:mod:`mtexp.config.plan`): every point checked before anything exists. Then Hydra runs
the points with the launcher chosen; each leaves ``job.json`` in its folder, so that the summary and the exit code are
the same whether it ran here, in another process or on another host.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mtexp import console
from mtexp.config.composer import (
    CONF_DIR,
    CONFIG_NAME,
    VERSION_BASE,
    composer_of,
    parse_command_line,
    set_up,
    to_config,
    to_yaml,
    trust_plan,
)
from mtexp.config.convert import to_spec
from mtexp.config.hardware import Hardware, probe
from mtexp.config.plan import Plan, plan
from mtexp.config.schema import Config
from mtexp.errors import MtexpError
from mtexp.spec import RunSpec, TrackingSpec, spec_hash, to_json

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

JOB = "job.json"
"""What became of a point, in its folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 all finished, 1 a run failed, 2 refused, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse_command_line(arguments)
    if args.help:
        console.say(composer_of(args).help())
        return OK
    if args.hydra_help or args.cfg or args.info or args.shell_completion:
        return _hydra(arguments)
    try:
        planned = plan(arguments, hardware=_hardware)
    except MtexpError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    _announce(planned)
    trust_plan()
    try:
        with console.sweep_bar(len(planned.points) if planned.serial else 0):
            code = _hydra(planned.argv)
    except KeyboardInterrupt:
        code = INTERRUPTED
    jobs = _jobs(planned.folder)
    if planned.multirun:
        console.say("")
        console.summary([job["row"] for job in jobs])
    _conclude(planned, jobs)
    done = sum(job["status"] != "FAILED" for job in jobs)
    return code or (OK if done == len(planned.points) else FAILED)


@cache
def _hardware() -> Hardware:
    return probe()


def _hydra(argv: Sequence[str]) -> int:
    """Hand a command line to Hydra, which reads it from ``sys.argv``."""
    import hydra

    set_up()
    run = hydra.main(version_base=VERSION_BASE, config_path=str(CONF_DIR), config_name=CONFIG_NAME)(_job)
    typed, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        run()
    except SystemExit as end:  # Hydra's way to end after --help, or on an error
        return int(end.code or OK)
    finally:
        sys.argv = typed
    return OK


def _announce(planned: Plan) -> None:
    """Say what begins; start importing torch for the tenants beside Hydra's own start."""
    specs = [point.spec for point in planned.points]
    if len(specs) > 1:
        console.say(f"{len(specs)} runs in {planned.folder}")
    if any(spec.runtime == "cpu" and spec.shrunk for spec in specs):
        console.say("No GPU in use: models are shrunk and run on the CPU (runtime.shrink=none forbids it).")
    if planned.serial and any(spec.launcher == "forkserver" for spec in specs):
        from mtexp.runner import shared_runner

        shared_runner().warm()


# --- one point --------------------------------------------------------------------------------------------------------


def _job(composed: Any) -> str:
    """Run one point; called by Hydra, wherever its launcher puts it. A failure is told, never raised into Hydra."""
    from hydra.core.hydra_config import HydraConfig

    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("forkserver", force=True)  # joblib's workers say "loky", which tenants lack
    config = to_config(composed)
    job, folder = HydraConfig.get().job, Path(HydraConfig.get().runtime.output_dir)
    record = None
    try:
        spec = to_spec(config, _hardware())
        record = _no_record(spec, "FAILED")
        record = _run(config, spec, folder, to_yaml(composed))
    except MtexpError as error:
        sys.stderr.write(f"{config.mix.name}: {error}\n")
    if record is not None:
        _leave(folder, {"num": job.get("num") or 0, "status": record["status"], "row": console.sweep_row(record)})
    console.advance()
    return "FAILED" if record is None else str(record["status"])


def _leave(folder: Path, outcome: dict[str, Any]) -> None:
    """Leave what became of a point in its folder; a point without counts as not run."""
    try:
        (folder / JOB).write_text(json.dumps(outcome), encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"{folder / JOB} cannot be written: {error}\n")


def _run(config: Config, spec: RunSpec, folder: Path, config_yaml: str) -> dict[str, Any]:
    """Run one point unless it is done, and return its record as JSON data."""
    from mtexp.runner import Job, shared_runner

    if config.resume and spec_hash(spec) in _done(spec.tracking, spec.runtime, spec.device, config.rerun_invalid):
        console.phase(f"{spec.mix}: done before, skipped (resume=true)")
        return _no_record(spec, "SKIPPED")
    job = Job(
        spec=spec,
        folder=folder,
        config=config_yaml,
        sweep=config.sweep,
        retries=config.retries,
        progress=console.phase,
    )
    outcome = shared_runner().run(job)
    record = to_json(outcome.record)
    console.results(record)
    for upload in outcome.uploads:
        if not upload.run_id:
            console.say(str(upload))
    return record


def _no_record(spec: RunSpec, status: str) -> dict[str, Any]:
    return {"spec": to_json(spec), "metrics": {}, "status": status}


@cache
def _done(tracking: TrackingSpec, runtime: str, uuid: str, rerun_invalid: bool) -> set[str]:
    """Spec hashes of what has been measured already on this device; asked once, the points of a sweep differ."""
    from mtexp.host import environment
    from mtexp.telemetry import facts
    from mtexp.tracking.ledger import finished

    hardware = _hardware()
    known = environment(hardware.cpu)
    if runtime == "gpu":
        device = next(gpu for gpu in hardware.gpus if uuid in ("", gpu.uuid))
        known = environment(device) | facts(device.uuid)
    return finished(tracking, known, redo_invalid=rerun_invalid)


# --- the end ----------------------------------------------------------------------------------------------------------


def _jobs(folder: Path) -> list[dict[str, Any]]:
    """What became of the points below ``folder``, in the order of the sweep."""
    jobs: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in folder.rglob(JOB)]
    return sorted(jobs, key=lambda job: int(job["num"]))


def _conclude(planned: Plan, jobs: Sequence[dict[str, Any]]) -> None:
    """Say what is missing, where the runs are and how to look at them."""
    from mtexp.tracking.store import resolve_uri, sqlite_path

    failed = sum(job["status"] == "FAILED" for job in jobs)
    missing = len(planned.points) - len(jobs)
    if failed or missing:
        console.say(f"{failed} of {len(planned.points)} runs failed, {missing} did not run")
    tracking = planned.points[0].spec.tracking
    uri = resolve_uri(tracking)
    if sqlite_path(uri) is None:
        where = f"MLflow at {uri}"
    elif not tracking.uri and Path("Makefile").is_file() and sqlite_path(uri) == Path.cwd() / "mlflow.db":
        where = "make ui"
    else:
        where = f"mlflow ui --backend-store-uri {uri} --host 127.0.0.1"
    console.say(f"Runs are in {planned.folder}. To look at them: {where}")
