"""The command line: exit codes, what is printed, what is left on disk, what is imported."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.errors import ConfigError, LeaseBusy
from mtexp.host import Device
from mtexp.records.record import RunRecord
from mtexp.running.runner import Job
from mtexp.signals import Ended, ended_in_order
from mtexp.spec import spec_hash, to_json
from mtexp.terminal import cli, points
from mtexp.terminal.conclusion import JOB
from mtexp.testing.records import example
from mtexp.tracking.ledger import Done
from mtexp.tracking.upload import Upload

ROOT = Path(__file__).resolve().parents[2]
CPU = Device("cpu", 0, "cpu", "a CPU", 64_000)


@dataclass
class FakeUploads:
    """Records that are sent at once."""

    done: list[Upload] = field(default_factory=list)
    left: int = 0

    def sent_within(self, time_s: float) -> bool:
        return self.left == 0

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass

    def results(self) -> Iterator[Upload]:
        while self.done:
            yield self.done.pop(0)


@dataclass
class FakeRunner:
    """Answers jobs with an example record."""

    jobs: list[Job] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)
    error: BaseException | None = None
    upload: Upload = field(default_factory=lambda: Upload(Path("x"), "run"))
    uploads: FakeUploads = field(default_factory=FakeUploads)
    behind: bool = False

    def warm(self, *, tracked=True) -> None:
        pass

    def run(self, job: Job) -> RunRecord:
        self.jobs.append(job)
        if self.error is not None:
            raise self.error
        job.progress("measuring")
        status = self.status.get(job.spec.mix, "FINISHED")
        record, _ = example(verdict="VALID" if status == "FINISHED" else "INVALID", status=status, failure="it broke")
        self.uploads.done.append(self.upload)
        return replace(record, spec=to_json(job.spec))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRunner]:
    fake = FakeRunner()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("mtexp.running.runner.shared_runner", lambda: fake)
    monkeypatch.setattr(points, "hardware", lambda: hardware_of(CPU))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield fake
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


def test_a_run_prints_its_table_and_leaves_its_outcome(runner: FakeRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; phases, results and the way to look at them on stdout; job.json in the folder of the run."""
    assert cli.main(["mix=solo", "sweep=mine"]) == 0
    out = capsys.readouterr().out
    assert re.match(r"1 run, about \d+ s, about 1 MB, in outputs/mine\n", out)
    assert "shrunk" in out
    assert "  measuring" in out
    assert "tenant" in out
    assert "python -m mtexp.tracking.ui --uri sqlite:///" in out
    (job,) = runner.jobs
    assert (job.spec.mix, job.sweep, job.folder) == ("solo", "mine", Path.cwd() / "outputs" / "mine")
    assert "name: solo" in job.config
    outcome = json.loads((job.folder / JOB).read_text())
    assert outcome["status"] == "FINISHED"


@pytest.mark.parametrize("left", [0, 2])
def test_only_sending_that_takes_long_is_said(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str], left: int
) -> None:
    """How many records are left, and that nobody has to wait for them; nothing where they are sent at once."""
    runner.uploads.left = left
    assert cli.main(["mix=solo"]) == 0
    said = "sending 2 records; Ctrl-C leaves the rest for later" in capsys.readouterr().out
    assert said == (left > 0)


def test_a_sweep_goes_on_after_a_failed_run(runner: FakeRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """Every point runs, the summary has a row for each, the exit code is 1."""
    runner.status["pair"] = "FAILED"
    assert cli.main(["-m", "mix=solo,pair,enc_only", "sweep=mine"]) == 1
    out = capsys.readouterr().out
    assert {job.spec.mix: job.folder.name for job in runner.jobs} == {"solo": "0", "pair": "1", "enc_only": "2"}
    assert [job.position for job in runner.jobs] == [0, 1, 2]
    summary = out[out.rindex("mps_settings") :].splitlines()
    assert [line.split()[0] for line in summary[1:4]] == ["solo", "pair", "enc_only"]
    assert summary[2].endswith("FAILED")
    assert "1 of 3 runs failed" in out
    assert "it broke" in out


@pytest.mark.parametrize(("subdir", "numbered"), [(None, True), ("9${hydra.job.num}", False)])
def test_points_run_in_the_order_of_the_plan(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str], subdir: str | None, numbered: bool
) -> None:
    """Drawn from the seed, pass by pass. A point keeps the folder number of its place in the written order, unless the
    user names the folders.
    """
    argv = ["-m", "mix=solo,pair", "seed=5", "repetitions=2", "sweep=mine"]
    if subdir is not None:
        argv.append(f"hydra.sweep.subdir='{subdir}'")
    planned = plan(argv, hardware=lambda: hardware_of(CPU))
    assert cli.main(argv) == 0
    expected = [planned.points[i].spec for i in planned.order]
    assert [(job.spec.mix, job.spec.repetition) for job in runner.jobs] == [(s.mix, s.repetition) for s in expected]
    assert planned.order != tuple(range(4))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(said) == 4
    assert all(spec.mix in line for spec, line in zip(expected, said, strict=True))
    assert [job.position for job in runner.jobs] == list(range(4))
    if numbered:
        assert [job.folder.name for job in runner.jobs] == [str(i) for i in planned.order]
        left = {job.folder.name: json.loads((job.folder / JOB).read_text())["num"] for job in runner.jobs}
        assert left == {str(i): i for i in range(4)}


def test_an_error_of_a_run_is_one_message(runner: FakeRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """A lease that could not be had: message on stderr, no traceback, exit code 1."""
    runner.error = LeaseBusy("the GPU is held by run x")
    assert cli.main(["mix=solo"]) == 1
    err = capsys.readouterr().err
    assert "solo: the GPU is held by run x" in err
    assert "Traceback" not in err


def test_interrupting_ends_the_sweep(runner: FakeRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C: exit code 130, the summary says what did not run."""
    runner.error = KeyboardInterrupt()
    assert cli.main(["-m", "mix=solo,pair"]) == 130
    assert len(runner.jobs) == 1
    assert "1 of 2 runs failed, 1 did not run" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_an_ignored_signal_ends_nothing(number: int) -> None:
    """Under nohup a terminal that is closed is no reason to end; a shell without job control ignores Ctrl-C."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert ended_in_order(lambda: os.kill(os.getpid(), number) or 7) == 7
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("argv", [["mix=solo"], ["-m", "mix=solo,pair"]])
@pytest.mark.parametrize(
    ("stop", "code", "said"), [(Ended(signal.SIGTERM), 143, "SIGTERM"), (KeyboardInterrupt(), 130, "Ctrl-C")]
)
def test_an_interrupted_run_says_why_it_failed(
    runner: FakeRunner,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    stop: KeyboardInterrupt,
    code: int,
    said: str,
) -> None:
    """As a run does that fails for another reason."""
    runner.error = stop
    assert cli.main(argv) == code
    assert f"FAILED: interrupted: {said}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_an_interrupted_plan_says_why_it_ended(
    runner: FakeRunner,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    said: str,
) -> None:
    """Before the first run no record and no summary could."""
    monkeypatch.setattr(cli, "plan", lambda *arguments, **named: os.kill(os.getpid(), number))
    assert cli.main(["mix=solo"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Interrupted by {said}" in line
    assert not runner.jobs


def test_interrupted_while_records_are_sent_no_run_is_missing(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs of the sweep have ended: why it ended early is said, and no command that would run nothing."""
    monkeypatch.setattr(points, "drain", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["-m", "mix=solo,pair"]) == 143
    out = capsys.readouterr().out
    assert "Interrupted by SIGTERM" in out.splitlines()
    assert "resume=true" not in out
    assert len(runner.jobs) == 2


def test_after_an_interrupt_the_command_that_resumes_is_shown(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command line with the name of the sweep, which was made up, and resume=true; it is accepted."""
    runner.error = KeyboardInterrupt()
    cli.main(["-m", "mix=solo,bert_base*2", "tracking=none"])
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "resume=true" in text]
    command = shlex.split(line)
    runner.error = None
    assert cli.main(command[command.index("-m") :]) == 0
    assert len(list(Path("multirun").iterdir())) == 1


def test_what_is_swept_is_announced_and_a_column(runner: FakeRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """Two points of one mix differ on the screen, before they run and in the summary."""
    cli.main(["-m", "mix=solo", "workload.batch_size=1,4", "sweep_order=written"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("[")] == ["[1/2] batch_size=1", "[2/2] batch_size=4"]
    heading = next(i for i, line in enumerate(lines) if line.split()[:2] == ["mix", "batch_size"])
    assert [line.split()[1] for line in lines[heading + 1 : heading + 3]] == ["1", "4"]


@pytest.mark.parametrize("argv", [["mix=solo"], ["-m", "mix=solo", "workload.batch_size=1,4"]])
def test_a_dry_run_creates_nothing(runner: FakeRunner, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    """How many runs, about how long, how much disk; exit code 0, no run, no folder, no store."""
    before = set(Path.cwd().rglob("*"))
    assert cli.main([*argv, "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert f"{len(argv) - 1 or 1} run" in out
    assert " MB" in out
    assert not runner.jobs
    assert set(Path.cwd().rglob("*")) == before


def test_a_refusal_leaves_nothing(runner: FakeRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the message on stderr, no run, no folder."""
    assert cli.main(["-m", "mix=solo,pair", "workload.batch_size=8,0"]) == 2
    captured = capsys.readouterr()
    assert "workload.batch_size=0" in captured.err
    assert captured.out == ""
    assert not runner.jobs
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("uri", ["http://x:abc", "http://u:pa/hunter2@127.0.0.1:9/", "sqlite:////proc/self"])
def test_a_store_that_cannot_be_is_refused(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    """Wherever it is named: one message before anything runs, exit code 2, no credentials in it."""
    assert cli.main(["mix=solo", f"tracking.uri='{uri}'"]) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert cli.main(["mix=solo"]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 2
    assert "hunter2" not in said.err + said.out
    assert not runner.jobs
    assert not list(Path.cwd().iterdir())


def test_an_interrupt_of_the_plan_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the middle of a library that makes another error of it, which the plan takes for a wrong value."""

    def interrupted(*arguments: object, **options: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ConfigError("configuration", "x", "another", "") from None

    monkeypatch.setattr(cli, "plan", interrupted)
    assert cli.main(["runtime=cpu"]) == 130
    assert "refused" not in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["plan", "_announce", "conclude"])
def test_interrupting_before_or_after_the_runs_is_no_traceback(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Exit code 130, whatever is going on."""

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, moment, interrupted)
    assert cli.main(["mix=solo"]) == 130


def test_resume_skips_what_is_done(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points whose spec hash is known as done are not run, count as well, and keep their figures in the summary."""
    cli.main(["-m", "mix=solo,pair"])
    done = {spec_hash(runner.jobs[0].spec): Done("r", "VALID", {"stp": 1.75})}
    runner.jobs.clear()
    capsys.readouterr()
    monkeypatch.setattr("mtexp.tracking.ledger.finished", lambda *args, **kwargs: done)
    points.done_before.cache_clear()
    assert cli.main(["-m", "mix=solo,pair", "resume=true"]) == 0
    assert [job.spec.mix for job in runner.jobs] == ["pair"]
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("VALID before")]
    assert row.split()[0] == "solo"
    assert "1.75" in row
    points.done_before.cache_clear()


def test_what_did_not_reach_mlflow_is_said(
    runner: FakeRunner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that could not be sent says how to send it later; the exit code is 1."""
    runner.upload = Upload(Path("x"), reason="unreachable")
    monkeypatch.setattr(cli, "ask_store", lambda tracking: None)  # it answered, and went away
    assert cli.main(["mix=solo", "tracking.uri=http://127.0.0.1:9", "retries=2"]) == 1
    out = capsys.readouterr().out
    assert "NOT sent: unreachable" in out
    assert "1 record is not in MLflow. To send it:\npython -m mtexp.tracking.upload" in out
    assert "MLflow at http://127.0.0.1:9" in out
    assert runner.jobs[0].retries == 2


def test_a_point_that_leaves_nothing_counts_as_not_run(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that cannot be written is told and makes the exit code 1."""

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert cli.main(["mix=solo"]) == 1
    assert "No space left" in capsys.readouterr().err


def test_help_names_groups_choices_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """-h lists every group with its choices and three examples."""
    assert cli.main(["-h"]) == 0
    out = capsys.readouterr().out
    assert "mix: dec_only, enc_only" in out
    assert "models: bert_base" in out
    assert out.count("python run.py ") >= 3


def test_the_configuration_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """--cfg is Hydra's, wherever it stands; a sweep has no single configuration."""
    assert cli.main(["runtime=cpu", "--cfg", "job", "mix=bert_base*2"]) == 0
    assert "bert_base*2" in capsys.readouterr().out
    assert cli.main(["--cfg", "job", "-m", "mix=solo,pair"]) == 2
    assert "Leave out -m" in capsys.readouterr().err


HEAVY = {"torch", "mlflow", "transformers", "pandas", "pyarrow"}


LIGHT = """
import sys
from mtexp.terminal import cli
from mtexp.tracking import ui
codes = [cli.main([argument]) for argument in ("-h", "mix=enc_onli", "workload.batch_size=0")]
assert [*codes, ui.main([])] == [0, 2, 2, 2], codes
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
"""


@pytest.mark.process
def test_help_and_refusals_import_nothing_heavy(tmp_path: Path) -> None:
    """A user who has to type a command again does not wait for a second; nothing is left, and there is no traceback."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    command = [sys.executable, "-c", LIGHT.format(heavy=HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_the_front_door_refuses_from_any_folder(tmp_path: Path) -> None:
    """run.py finds its configuration wherever it is called from."""
    run = [sys.executable, str(ROOT / "run.py"), "precisio=bf16"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Did you mean precision?" in done.stderr


@pytest.mark.process
def test_interrupting_the_start_is_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C while run.py imports, here something that omegaconf stands for: a line why, exit code 130."""
    (tmp_path / "omegaconf.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    command = [sys.executable, str(ROOT / "run.py"), "mix=solo"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted by Ctrl-C.\n")


_CATCHES = """
import os, signal, sys
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except KeyboardInterrupt:
    pass
sys.path.remove({here!r})
del sys.modules["omegaconf"]
import omegaconf
sys.modules["omegaconf"] = omegaconf
"""


@pytest.mark.process
def test_an_interrupt_of_the_start_that_a_library_catches_is_one(tmp_path: Path) -> None:
    """Seen once in 25: the sweep went on as if nothing had been."""
    (tmp_path / "omegaconf.py").write_text(_CATCHES.format(here=str(tmp_path)))
    command = [sys.executable, str(ROOT / "run.py"), "mix=solo", "runtime=cpu", "dry_run=true"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted by Ctrl-C.\n")


def test_the_front_door_is_short() -> None:
    """run.py stays a door: at most 40 lines."""
    assert len((ROOT / "run.py").read_text().splitlines()) <= 40


def test_points_are_composed_once_by_hydra(runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plan has composed and checked, Hydra's sweeper does not compose again before the first point runs."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    composed, real = [], ConfigLoaderImpl.load_sweep_config

    def count(self: Any, master: Any, overrides: list[str]) -> Any:
        composed.append(overrides)
        return real(self, master, overrides)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", count)
    assert cli.main(["-m", "mix=solo,pair"]) == 0
    assert len(runner.jobs) == 2
    assert len(composed) == 2


@pytest.mark.parametrize(
    ("typed", "sizes"),
    [
        (["-m", "mix=bert_base+distilgpt2,bert_base*2"], {"bert_base+distilgpt2": [7, 3], "bert_base*2": [7, 7]}),
        (["+experiment=quick"], {"bert_base": [7], "bert_base*2": [7, 7], "bert_base+distilgpt2": [7, 3]}),
        (["-m", "mix=bert_base+distilgpt2", "seed=1,2"], {"bert_base+distilgpt2": [7, 3]}),
    ],
)
def test_a_setting_of_a_tenant_holds_in_every_mix_of_a_sweep(
    runner: FakeRunner, typed: list[str], sizes: dict[str, list[int]]
) -> None:
    """A plain value: the jobs that Hydra runs have it, in mixes of the command line and of an experiment."""
    arguments = ["mix.tenants.bert_base.batch_size=7", "workload.batch_size=3", "sweep_order=written"]
    assert cli.main([*typed, *arguments]) == 0
    ran = {job.spec.mix: [tenant.workload.batch_size for tenant in job.spec.tenants] for job in runner.jobs}
    assert ran == sizes
