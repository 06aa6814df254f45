"""The Python API: :func:`run` and :func:`sweep`, also as ``mtexp.run`` and ``mtexp.sweep``. docs/python.md shows it.

May touch: the plan of a command line, the runner of this process. Bad input and failures are exceptions of
:mod:`mtexp.errors`; nothing is printed. Configurations, checks and records are those of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mtexp.config.composer import Composer, to_yaml
from mtexp.config.plan import Plan, plan
from mtexp.config.problems import Refused
from mtexp.config.schema import SideBySide
from mtexp.config.swept import swept
from mtexp.errors import ConfigError, RunFailed
from mtexp.records.files import ITERATIONS, find_records
from mtexp.records.record import RunRecord, load
from mtexp.records.samples_file import read_iterations
from mtexp.tracking.reach import ask_store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Result", "Results", "run", "sweep"]

Progress = Callable[[str], None]
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_*+./:-]*")
_NOT_TEXT = ("null", "true", "false", "nan", "inf")


@dataclass(frozen=True)
class Result:
    """What one run measured."""

    record: RunRecord
    folder: Path
    """Folder of the record: ``record.json``, ``iterations.parquet``, ``telemetry.parquet``, logs, a picture."""
    untracked: str = ""
    """Why the record is not in MLflow, and what to do; empty when it is, or was not to be."""

    @property
    def status(self) -> str:
        """``FINISHED`` or ``FAILED``."""
        return self.record.status

    @property
    def verdict(self) -> str:
        """``VALID`` or ``INVALID``; ``findings`` has the reasons."""
        return self.record.verdict

    @property
    def findings(self) -> list[str]:
        """Reasons of the verdict and warnings, one sentence each."""
        from mtexp.metrics.finding import sentences

        return list(sentences(self.record.findings))

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the whole run, e.g. ``stp``, ``antt``, ``fairness``, ``stp_ci_low``."""
        return dict(self.record.metrics)

    @cached_property
    def tenants(self) -> pd.DataFrame:
        """One row per tenant: what it was, and its metrics; NaN where there were too few iterations for one."""
        import pandas as pd

        spec = self.record.run_spec
        rows = []
        for specified in spec.tenants:
            row = {
                "mix": spec.mix,
                "mps_settings": spec.mps_settings,
                "tenant": specified.id,
                "model": specified.model.name,
                "precision": specified.precision,
                "batch_size": specified.workload.batch_size,
                "seq_len": specified.workload.seq_len,
                "status": "",
            }
            for measured in self.record.tenants:
                if measured.id == specified.id:
                    row["status"] = measured.status
                    row |= {k: float("nan") if k in measured.insufficient else v for k, v in measured.metrics.items()}
            rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def iterations(self) -> pd.DataFrame:
        """One row per iteration (:func:`mtexp.records.samples_file.read_iterations`).

        Raises:
            RecordError: There is no such file, because nothing was measured.
        """
        return read_iterations(self.folder / ITERATIONS)


@dataclass(frozen=True)
class Results(Sequence[Result]):
    """The runs of a sweep, in the order in which they were written; they run in the order of ``sweep_order``."""

    folder: Path
    all: tuple[Result, ...] = field(repr=False)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Result, ...]: ...
    def __getitem__(self, index: int | slice) -> Result | tuple[Result, ...]:
        return self.all[index]

    def __len__(self) -> int:
        return len(self.all)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: index ``run``, its verdict and its metrics."""
        import pandas as pd

        rows = [
            {
                "mix": r.record.run_spec.mix,
                "mps_settings": r.record.run_spec.mps_settings,
                "repetition": r.record.run_spec.repetition,
                "status": r.status,
                "verdict": r.verdict,
                **r.metrics,
            }
            for r in self.all
        ]
        return pd.DataFrame(rows).rename_axis("run")

    @cached_property
    def tenants(self) -> pd.DataFrame:
        """:attr:`Result.tenants` of every run; column ``run`` is its index in :attr:`runs`."""
        import pandas as pd

        return pd.concat([r.tenants.assign(run=i) for i, r in enumerate(self.all)], ignore_index=True)


def run(
    mix: str = "pair",
    *,
    progress: Progress | None = None,
    config_dir: str | Path | None = None,
    **overrides: Any,
) -> Result:
    """Measure one mix, as ``mtexp run mix=... KEY=VALUE ...`` does, and return what came of it.

    Args:
        mix: A mix of ``conf/mix``, or models with counts such as ``bert_base*2+llama_3_2_1b``.
        progress: Called with a line for each phase, e.g. ``print``; never while tenants measure.
        config_dir: Folder with mixes, models and other choices of your own.
        overrides: Configuration: ``mps_settings="default"``, ``tracking="none"``; keys with dots as
            ``**{"measure.iterations": 50}`` or nested, ``measure={"iterations": 50}``.

    Raises:
        Refused: The configuration cannot be run; its ``problems`` are ConfigErrors.
        RunFailed: A tenant failed; ``result`` has what was measured.
        LeaseBusy: No device became free.
        MtexpError: Anything else that can be acted on.
    """
    texts = [f"{key}={text(value)}" for key, value in _flat({"mix": mix, **overrides})]
    planned = _planned(texts, config_dir)
    if planned.multirun:
        raise Refused([ConfigError("run", " ".join(texts), "one run", "This is a sweep of several: use mtexp.sweep.")])
    (result,) = _measured(planned, progress, config_dir)
    if result.status != "FINISHED":
        raise RunFailed(result)
    return result


def sweep(*, progress: Progress | None = None, config_dir: str | Path | None = None, **overrides: Any) -> Results:
    """Measure all combinations of the lists among ``overrides``, as ``mtexp run -m`` does.

    Every run is checked before the first one starts. A run that fails does not end the sweep: look at ``status``.

    Args:
        progress: As of :func:`run`.
        config_dir: As of :func:`run`.
        overrides: As of :func:`run`; a list gives the values to sweep over, ``mix=["pair", "bert_base*2"]``.

    Raises:
        Refused: The configuration of a run cannot be run.
        MtexpError: As of :func:`run`, but for RunFailed.
    """
    texts = []
    for key, value in _flat(overrides):
        values = value if isinstance(value, list | tuple) else [value]
        texts.append(f"{key}={','.join(text(v) for v in values)}")
    planned = _planned(["-m", *texts], config_dir)
    return Results(planned.folder, tuple(_measured(planned, progress, config_dir)))


def text(value: Any) -> str:
    """Return a Python value as Hydra reads it after ``KEY=``.

    Raises:
        Refused: There is no such notation for it.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        word = str(value)
        if _PLAIN.fullmatch(word) and word.lower() not in _NOT_TEXT:
            return word
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", word))
        return f"'{escaped}'"
    if isinstance(value, list | tuple):
        return f"[{','.join(text(v) for v in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{text(v)}' for k, v in value.items())}}}"
    if callable(getattr(value, "item", None)):  # a scalar of numpy
        return text(value.item())
    remedy = "Convert it first."
    raise Refused([ConfigError("value", repr(value), "numbers, text, true, false, lists", remedy)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _planned(arguments: Sequence[str], config_dir: str | Path | None) -> Plan:
    own = [] if config_dir is None else ["--config-dir", str(Path(config_dir).absolute())]
    planned = plan([*own, *arguments], ask=ask_store)
    shell = "Use the command mtexp run for it."
    if planned.search or not planned.serial:
        what = "a search for a capacity" if planned.search else "a launcher"
        raise Refused([ConfigError("hydra", what, "runs one after another in this process", shell)])
    if any(argument.lstrip("+") == "resume=true" for argument in arguments):
        raise Refused([ConfigError("resume", "true", "false in Python", shell)])
    return planned


def _measured(planned: Plan, progress: Progress | None, config_dir: str | Path | None) -> list[Result]:
    from mtexp.running.runner import Job, shared_runner
    from mtexp.running.sessions import Waiting
    from mtexp.tracking.background import Uploads

    runner, composer = shared_runner(), Composer(extra=config_dir)
    runner.uploads = Uploads()  # those of an earlier call may have been abandoned by an interrupt
    specs = [point.spec for point in planned.points]
    if progress is not None:
        for warning in planned.warnings:
            progress(f"warning: {warning}")
        for note in planned.notes:
            progress(f"note: {note}")
    if any(spec.launcher == "forkserver" for spec in specs):
        runner.warm(tracked=any(spec.tracking.enabled for spec in specs))
    differences = swept([point.overrides for point in planned.points])
    measured: dict[int, tuple[RunRecord, Path]] = {}
    waiting = Waiting[tuple[int, Job]](planned.sessions.groups)
    try:
        for position, number in enumerate(planned.order or range(len(planned.points))):
            point = planned.points[number]
            config, _ = composer.load(point.overrides)
            job = Job(
                spec=point.spec,
                folder=planned.folder / str(number) if planned.multirun else planned.folder,
                config=to_yaml(config),
                sweep=planned.sweep,
                position=position,
                swept=differences[number] if planned.multirun else {},
                retries=int(config.retries),
                progress=progress or (lambda line: None),
                separate=planned.sessions.separate.get(number, ""),
                required=config.side_by_side == SideBySide.require,
            )
            together = waiting.turn(number, (number, job))
            jobs = [job for _, job in together]
            records = runner.run_side_by_side(jobs) if len(jobs) > 1 else [runner.run(job) for job in jobs]
            for (own, job), record in zip(together, records, strict=True):
                measured[own] = record, _place(job.folder, record)
    finally:
        runner.uploads.drain()
    lost = {upload.directory: upload.reason for upload in runner.uploads.results() if upload.reason}
    return [Result(record, folder.resolve(), lost.get(folder, "")) for _, (record, folder) in sorted(measured.items())]


def _place(below: Path, record: RunRecord) -> Path:
    """The folder of ``record``: ``below``, or a folder in it where it took several attempts."""
    return next(folder for folder in find_records(below) if load(folder).record_id == record.record_id)
