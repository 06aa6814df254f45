"""``experiment=capacity``: what is refused, what is launched, what is taken up again, what is said and written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mtexp.config import Composer, to_spec
from mtexp.config.capacity import search_rule
from mtexp.config.composer import apply_values, to_config
from mtexp.config.hardware import Hardware, hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused
from mtexp.errors import ConfigError, LeaseBusy
from mtexp.host import Device
from mtexp.records.files import fresh
from mtexp.records.record import RunRecord, TenantRecord, save
from mtexp.running.runner import Job
from mtexp.spec import spec_hash, to_json
from mtexp.terminal import cli, points
from mtexp.testing.records import example

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)
CAPACITY = {"disabled": 0.3, "default": 0.62}
SEARCH = (
    *("+experiment=capacity", "mix=pair", "mix.tenants.a.slo_ms=20", "sweep=mine"),
    *("capacity.low=0.25", "capacity.tolerance_pct=100"),
)
"""Three probes find a capacity: both bounds, and one between them."""


def _hardware() -> Hardware:
    return hardware_of(GPU)


@dataclass
class NoUploads:
    """Nothing is sent."""

    left: int = 0

    def sent_within(self, time_s: float) -> bool:
        return True

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass

    def results(self) -> list[Any]:
        return []


@dataclass
class LoadedRunner:
    """Keeps every level up to a load, by ``mps_settings``; leaves a record of it, as a run does."""

    jobs: list[Job] = field(default_factory=list)
    spoil: Callable[[Job], dict[str, Any]] = lambda job: {}
    uploads: NoUploads = field(default_factory=NoUploads)
    behind: bool = False

    def warm(self, *, tracked=True) -> None:
        pass

    def run(self, job: Job) -> RunRecord:
        self.jobs.append(job)
        kept = self.load(job) <= CAPACITY[job.spec.mps_settings]
        metrics = {"slo_ms": 20.0, "slo_attainment_pct": 99.9 if kept else 60.0, "goodput_rps": 99.0}
        metrics |= {"iterations_in_window": 700, "throughput_rps": 100.0}
        tenants = tuple(
            TenantRecord(id=t.id, model=t.model.name, status="FINISHED", metrics=metrics) for t in job.spec.tenants
        )
        record, samples = example(seed=len(self.jobs), sweep=job.sweep, tenants=tenants)
        record = replace(record, spec=to_json(job.spec), spec_hash=spec_hash(job.spec))
        record = replace(record, **self.spoil(job))
        save(record, fresh(job.folder), samples)
        return record

    def loads(self) -> list[float]:
        return [self.load(job) for job in self.jobs]

    @staticmethod
    def load(job: Job) -> float:
        return job.spec.tenants[0].arrival.load


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoadedRunner]:
    fake = LoadedRunner()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("mtexp.running.runner.shared_runner", lambda: fake)
    monkeypatch.setattr(points, "hardware", _hardware)
    monkeypatch.setattr("mtexp.config.plan.hardware_for", lambda launcher, probe=None: _hardware())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield fake
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


def _searches() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path("multirun/mine/capacity.json").read_text())["searches"]
    return found


REFUSED = [
    ("mix.tenants.a.slo_ms=0", "a mix in which a tenant has a service level"),
    ("arrival.load=0.3", "arrival.load=0.3: a capacity search chooses it. Use capacity.low"),
    ("arrival.rate=5", "arrival.rate=5: a capacity search chooses it. Use capacity.low"),
    ("arrival=closed", "arrival=closed: allowed: poisson, constant"),
    ("baseline=skip", "0 with baseline=skip"),
    ("capacity.lowest=1", "Did you mean low?"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_a_search_that_cannot_be_is_refused(change: str, said: str) -> None:
    """Before the first run: key, value, what is allowed; nothing is made."""
    with pytest.raises(Refused) as refused:
        plan([*SEARCH, change], hardware=_hardware)
    assert said in str(refused.value)


WRONG = [
    ("capacity.low=2", "less than capacity.high=1"),
    ("capacity.low=0", "capacity.low=0.0: allowed: more than 0"),
    ("capacity.high=1000", "capacity.high=1000.0: allowed: 0 to 100"),
    ("capacity.by=rate", "capacity.high=null: allowed: a number with capacity.by=rate"),
    ("capacity.tolerance_pct=0", "capacity.tolerance_pct=0.0: allowed: 0.5 to 100"),
    ("capacity.max_probes=1", "capacity.max_probes=1: allowed: 2 or more"),
    ("capacity.attainment_pct=100", "capacity.attainment_pct=100.0: allowed: between 0 and 100"),
    ("measure.iterations=100", "at least 662 to judge an attainment of 99 %"),
    ("measure.min_time_s=0.1", "at least 0.4 with these levels"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_wrong_setting_of_a_search_is_named(change: str, said: str) -> None:
    """What the plan refuses with."""
    composer = Composer()
    composed, _ = composer.load(SEARCH)
    apply_values([composer.parse(change)], composed)
    config = to_config(composed)
    with pytest.raises(ConfigError) as refused:
        search_rule(config, to_spec(config, _hardware()))
    assert said in str(refused.value)


def test_every_tenant_with_its_own_rate_leaves_nothing_to_search() -> None:
    """One such tenant is a neighbour; all of them are refused."""
    own = [f"mix.tenants.{name}.arrival.load=0.5" for name in ("a", "b")]
    plan([*SEARCH, own[0]], hardware=_hardware)
    with pytest.raises(Refused, match="a tenant without its own arrival settings"):
        plan([*SEARCH, *own], hardware=_hardware)


def test_a_search_is_a_sweep() -> None:
    """The sweeper in a single run is refused with the remedy; the experiment brings -m along."""
    with pytest.raises(Refused, match="a search needs several runs"):
        plan(["hydra/sweeper=capacity", "mix=pair"], hardware=_hardware)
    assert plan(SEARCH, hardware=_hardware).argv[0] == "--multirun"


def test_a_search_for_every_point(runner: LoadedRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """Each point of the sweep gets its own; runs, file and terminal agree, and every run names its search."""
    assert cli.main([*SEARCH, "mps_settings=disabled,default", "capacity.tolerance_pct=50"]) == 0
    out = capsys.readouterr().out
    first, second = _searches()
    assert [s["sharing"] for s in (first, second)] == ["disabled", "default"]
    for search in (first, second):
        capacity = CAPACITY[search["sharing"]]
        assert search["outcome"] == "found"
        assert search["kept"] <= capacity < search["missed"] <= 1.5 * search["kept"]
        assert f"highest load kept {search['kept']:g}" in out
        assert search["tenants"][0]["goodput_rps"] == 99.0
        own = [job for job in runner.jobs if job.spec.search.name == search["search"]]
        assert [LoadedRunner.load(job) for job in own] == [probe["value"] for probe in search["probes"]]
        assert {job.spec.mps_settings for job in own} == {search["sharing"]}
        assert all(job.spec.search.attainment_pct == 99 for job in own)
        assert (Path("multirun/mine") / search["probes"][0]["folder"] / "record.json").is_file()
    assert len(runner.jobs) == len(first["probes"]) + len(second["probes"])
    assert len({job.folder for job in runner.jobs}) == len(runner.jobs)


def test_rates_are_searched_as_well(runner: LoadedRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """``capacity.by=rate``: requests a second of each tenant, with the bounds given."""
    monkeypatch.setattr(LoadedRunner, "load", staticmethod(lambda job: job.spec.tenants[0].arrival.rate_rps / 100))
    assert cli.main([*SEARCH, "capacity.by=rate", "capacity.low=25", "capacity.high=100"]) == 0
    (search,) = _searches()
    assert search["kept"] <= 30 < search["missed"]
    assert all(job.spec.tenants[0].arrival.load == 0 for job in runner.jobs)


def test_bounds_that_do_not_hold_the_capacity_are_told(
    runner: LoadedRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is an answer between the bounds, and neither is called one."""
    bounds = ("capacity.low=0.35", "capacity.high=0.5")
    assert cli.main([*SEARCH, "mps_settings=disabled,default", *bounds]) == 0
    out = capsys.readouterr().out
    assert "the lower bound, load 0.35, already misses the level" in out
    assert "the upper bound, load 0.5, still keeps the level" in out
    assert [search["outcome"] for search in _searches()] == ["below", "above"]


def test_a_probe_that_says_nothing_stops_its_search(runner: LoadedRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """The others go on; the exit code is 1; resumed, only that probe and what follows from it are measured."""
    command = [*SEARCH, "mps_settings=disabled,default"]
    runner.spoil = lambda job: {"verdict": "INVALID"} if len(runner.jobs) == 3 else {}
    assert cli.main(command) == 1
    out = capsys.readouterr().out
    stopped, found = _searches()
    assert (stopped["outcome"], found["outcome"]) == ("stopped", "found")
    assert (stopped["kept"], stopped["missed"]) == (None, 1.0)
    assert "inconclusive (INVALID" in out
    assert "Continue with resume=true rerun_invalid=true" in out
    measured = runner.loads()
    runner.spoil = lambda job: {"status": "FAILED", "verdict": "INVALID", "failure": "out of memory"}
    assert cli.main([*command, "resume=true", "rerun_invalid=true"]) == 1
    out = capsys.readouterr().out
    assert "inconclusive (FAILED: out of memory" in out
    assert "Continue with resume=true\n" in out
    runner.spoil = lambda job: {}
    assert cli.main([*command, "resume=true"]) == 0
    assert [search["outcome"] for search in _searches()] == ["found", "found"]
    again = runner.loads()[len(measured) :]
    assert again[:2] == [measured[2]] * 2
    assert not {1.0} & set(again)


def test_an_interrupted_search_goes_on(runner: LoadedRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C leaves what is known; with resume=true nothing is measured twice, and the answer is that of one go."""
    interrupted = LeaseBusy("the GPU is held")

    def stop(job: Job) -> dict[str, Any]:
        if len(runner.jobs) == 2:
            raise KeyboardInterrupt
        if len(runner.jobs) == 3:
            raise interrupted
        return {}

    runner.spoil = stop
    assert cli.main(SEARCH) == 130
    assert _searches()[0]["outcome"] == "open"
    assert "not finished" in capsys.readouterr().out
    assert cli.main([*SEARCH, "resume=true"]) == 1
    assert "no record in" in capsys.readouterr().out
    assert cli.main([*SEARCH, "resume=true"]) == 0
    assert "measured before" in capsys.readouterr().out
    (search,) = _searches()
    loads = runner.loads()
    assert search["kept"] <= 0.3 < search["missed"] <= 2 * search["kept"]
    assert [probe["value"] for probe in search["probes"]] == list(dict.fromkeys(loads))
    assert len(loads) == len(search["probes"]) + 2  # those two that left no record


def test_probes_of_another_device_are_not_mixed(runner: LoadedRunner, capsys: pytest.CaptureFixture[str]) -> None:
    """A search that goes on elsewhere stops: its answer would belong to neither device."""
    runner.spoil = lambda job: {"environment": {"gpu_name": "A100" if len(runner.jobs) > 2 else "H200"}}
    assert cli.main(SEARCH) == 1
    assert "measured with another gpu_name than the probes before" in capsys.readouterr().out
