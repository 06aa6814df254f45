"""Planning: every point of a sweep is checked before anything exists, and is what Hydra would compose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra.types import RunMode

from mtexp.config.composer import CONF_DIR, Composer, to_config
from mtexp.config.hardware import Hardware, hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused
from mtexp.config.schema import Config
from mtexp.config.sections import SectionedComposer
from mtexp.host import Device
from mtexp.spec import spec_hash
from tests.config.planning import GPU, plan_of, refusal


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "allowed"),
    [
        ("mix=glob(zz*)", "allowed: dec_only, enc_only"),
        ("measure.iterations=glob(*)", "allowed: values such as"),
        ("seed=range(1,1)", "allowed: values such as"),
    ],
)
def test_a_sweep_over_nothing_is_refused(argument: str, allowed: str) -> None:
    """It would run no point, and end as if all were done."""
    text = refusal("-m", "precision=fp16,bf16", argument)
    assert text.startswith(f"refused: {argument}: {allowed}")
    assert "no point" in text


MISTAKES = [
    ("mix=enc_onli", "refused: mix=enc_onli: allowed: dec_only, enc_only", "Did you mean enc_only?"),
    ("mix=${oc.env:MIX}", "refused: mix=${oc.env:MIX}", 'Let the shell fill it in: mix="$MIX".'),
    ("mix=bert_bse", "refused: mix=bert_bse: allowed: dec_only", "Did you mean bert_base?"),
    ("mix=bert_bse*2+distilgpt2", "allowed: models bert_base", "There is no model bert_bse. Did you mean bert_base?"),
    ("mix=bert_base*x", "or models joined as in", "bert_base*2+llama_3_2_1b"),
    ("models@mix.tenants.b=distilgpt", "refused: models@mix.tenants.b=distilgpt", "Did you mean distilgpt2?"),
    ("models@mix.tenants.z=distilgpt2", "refused: models@mix.tenants.z=distilgpt2", "+models@mix.tenants.z"),
    ("modls@mix.tenants.b=distilgpt2", "refused: modls=@mix.tenants.b", "Did you mean models?"),
    ("precision=bf17", "allowed: bf16, fp16, fp32, fp8, int8, tf32", "Did you mean bf16?"),
    ("precisio=bf16", "refused: precisio=bf16", "Did you mean precision?"),
    ("mps_settings=off", "or a percentage such as 30pct", "disabled"),
    ("+experiment=pair", "refused: experiment=pair", "Did you mean pairs?"),
    ("hydra/launcher=jobib", "refused: hydra/launcher=jobib", "Did you mean joblib?"),
    ("+foo=1", "refused: foo=1", "There is no foo."),
    (
        "+mix.tenants.zz.priority=1",
        "refused: mix.tenants.zz.priority=1: the mix has no tenant zz",
        "+models@mix.tenants.zz=",
    ),
    ("mix.tenants.a.name=../../x", "refused: mix.tenants.a.name=../../x: allowed: letters, digits", "another name"),
    ("mix.tenants.a.name=x..y", "allowed: letters, digits and _ . -", "another name"),
    ("workload.batchsize=4", "keys of workload: kind, batch_size", "Did you mean batch_size?"),
    ("workload.batch_size=abc", "refused: workload.batch_size=abc: allowed: an integer", ""),
    ("workload.batch_size=1.5", "allowed: an integer", ""),
    ("measure.min_time_s=soon", "allowed: a number", ""),
    ("measure.pin_cores=perhaps", "allowed: true, false", ""),
    ("measure.foreign=allow", "allowed: refuse, warn, ignore", ""),
    ("measure=3", "refused: measure=3", "MeasureConfig"),
    ("execution=cuda_grph", "allowed: eager, cuda_graph, compile", "Did you mean cuda_graph?"),
    (
        "mix.tenants.z.count=3",
        "refused: mix.tenants.z.count=3: allowed: keys of mix.tenants: a, b",
        "no mix.tenants.z.",
    ),
    ("mix.tenants.a.cont=3", "keys of mix.tenants.a: name", "Did you mean count?"),
    ("seed.x=3", "There is no seed.x", "nothing below it"),
    ("mixed", "refused: mixed=(nothing)", "Write it as KEY=VALUE."),
    ("mix=[a", "refused: mix=[a", "Quote special characters"),
    ("hydra.job.foo=3", "keys of hydra.job: name", ""),
    ("mix=pair,solo", "one value in a single run", "Add -m"),
    ("seed=range(3)", "one value in a single run", "Add -m"),
    ("workload.batch_size=0", "workload.batch_size=0: allowed: 1 or more", ""),
    ("-m +experiment=pairs,quick", "it defines the sweep", "experiment=report"),
]


@pytest.mark.parametrize(("argv", "beginning", "remedy"), MISTAKES)
def test_a_mistake_is_answered_with_what_is_allowed(argv: str, beginning: str, remedy: str) -> None:
    """Misspelt groups, choices, models, keys and values: one message, the nearest spelling, nothing created."""
    text = refusal(*argv.split())
    assert beginning in text
    assert remedy in text
    assert text.startswith("refused: ")
    assert not list(Path.cwd().iterdir())


def test_several_problems_are_told_at_once() -> None:
    """Each misspelt argument has a line of its own."""
    lines = refusal("precisio=bf16", "mix=enc_onli", "workload.batchsize=3").splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "refused: precisio",
        "refused: mix",
        "refused: workload.batchsize",
    ]


def test_the_last_point_is_checked_before_the_first_runs() -> None:
    """A sweep of which one point cannot run is refused as a whole, and says so."""
    text = refusal("-m", "workload.batch_size=1,2,4,0")
    assert "workload.batch_size=0" in text
    assert "all 4 points" in text


def test_a_long_sweep_of_mistakes_is_not_told_in_full() -> None:
    """Up to five different problems are shown."""
    text = refusal("-m", "mix=mistral_7b*40", "workload.batch_size=" + ",".join(str(-i) for i in range(20)))
    assert text.count("refused: ") == 5


@pytest.mark.parametrize(
    ("text", "beginning", "remedy"),
    [
        (
            "tenants: {a: {batchsize: 3}}",
            "refused: mix.tenants.a.batchsize=",
            "Did you mean batch_size? It is in mix/bad.",
        ),
        (
            "tenants: {a: {batch_size: many}}",
            "refused: mix.tenants.a.batch_size=many: allowed: an integer",
            "mix/bad.yaml",
        ),
        ("tenants:\n  a: [", "mix/bad.yaml: allowed: YAML", "In line 2, column"),
    ],
)
def test_a_mistake_in_a_file_is_answered_like_one_of_the_command_line(
    tmp_path: Path, text: str, beginning: str, remedy: str
) -> None:
    """The key, its value, what is allowed, and in which file it is."""
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "bad.yaml").write_text(text)
    text = refusal("--config-dir", str(tmp_path), "mix=bad")
    assert beginning in text
    assert remedy in text
    assert "ConfigKeyError" not in text


def test_a_load_that_nobody_can_serve_is_warned_about() -> None:
    """Once, whatever the points; a load of 1 is the most that a tenant can do."""
    planned = plan_of("-m", "mix=solo,pair", "arrival=poisson", "arrival.load=1,1.5")
    (warning,) = [text for text in planned.warnings if "arrival.load" in text]
    assert "arrival.load=1.5" in warning


def test_the_experiment_of_the_environment_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own clients read the variable: one warning names the experiment of the records, if it is another."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    (warning,) = [text for text in plan_of("-m", "mix=solo,pair").warnings if "MLFLOW_EXPERIMENT_NAME" in text]
    assert "experiment mtexp (tracking.experiment)" in warning
    for same in ("tracking.experiment=mine", "tracking=none"):
        assert not any("MLFLOW_EXPERIMENT_NAME" in text for text in plan_of("mix=solo", same).warnings)


def test_a_misspelt_choice_in_a_sweep_of_an_experiment_is_found(tmp_path: Path) -> None:
    """hydra.sweeper.params are checked like the command line."""
    folder = tmp_path / "more" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      precision: fp16,bf17\n"
    (folder / "mine.yaml").write_text(text)
    text = refusal("-m", "--config-dir", str(tmp_path / "more"), "+experiment=mine")
    assert "precision=bf17" in text
    assert "Did you mean bf16?" in text


def test_commas_ranges_and_experiments_make_points() -> None:
    """The points are those of Hydra's sweeper, in its order."""
    planned = plan_of("-m", "mix=solo,pair", "seed=range(0,4,2)")
    assert [(p.spec.mix, p.spec.seed) for p in planned.points] == [("solo", 0), ("solo", 2), ("pair", 0), ("pair", 2)]
    quick = plan_of("-m", "+experiment=quick", "seed=1,2", "mix=solo,pair")
    assert [(p.spec.mix, p.spec.seed) for p in quick.points] == [("solo", 1), ("solo", 2), ("pair", 1), ("pair", 2)]
    assert {p.spec.measure.iterations for p in quick.points} == {20}


def test_a_choice_that_is_left_to_the_user_has_to_be_made(tmp_path: Path) -> None:
    """``???`` in a file of the user's: it is enough to choose once for all points of a sweep."""
    choices = "[schema, {mix: solo}, {precision: '???'}, {tracking: none}, _self_]"
    (tmp_path / "own.yaml").write_text(f"defaults: {choices}\nhydra: {{sweep: {{dir: 'multirun/${{sweep}}'}}}}\n")
    sweep = ("-m", "--config-path", str(tmp_path), "--config-name", "own", "--config-dir", str(CONF_DIR), "seed=1,2")
    assert "precision" in refusal(*sweep)
    assert {point.spec.tenants[0].precision for point in plan_of(*sweep, "precision=bf16").points} == {"bf16"}


def test_globs_make_points() -> None:
    """glob() sweeps over choices."""
    planned = plan_of("-m", "mix=glob(*_only)")
    assert [p.spec.mix for p in planned.points] == ["dec_only", "enc_only"]


def test_repetitions_are_runs_of_their_own() -> None:
    """repetitions=3 makes three runs of each point, the whole sweep again each time, with or without -m."""
    planned = plan_of("mix=solo", "repetitions=3")
    assert planned.multirun
    assert [p.spec.repetition for p in planned.points] == [0, 1, 2]
    sweep = plan_of("-m", "mix=solo,pair", "repetitions=2")
    assert [(p.spec.repetition, p.spec.mix) for p in sweep.points] == [
        (0, "solo"),
        (0, "pair"),
        (1, "solo"),
        (1, "pair"),
    ]
    assert "repetition=range(2)" in sweep.argv


def test_the_plus_of_an_experiment_may_be_left_out() -> None:
    """experiment=quick means +experiment=quick."""
    assert len(plan_of("experiment=quick").points) == 3


def test_a_sweep_has_a_name_and_a_folder() -> None:
    """Without a name two sweeps get two folders; a name given is the folder's."""
    first, second = plan_of("mix=solo"), plan_of("mix=solo")
    assert first.sweep != second.sweep
    assert first.folder == Path("outputs", first.sweep)
    named = plan_of("-m", "mix=solo,pair", "sweep=study")
    assert named.folder == Path("multirun/study")
    assert named.serial


def test_results_are_not_overwritten() -> None:
    """A name that has results is refused unless the sweep is resumed."""
    Path("multirun/study/0").mkdir(parents=True)
    assert "resume=true" in refusal("-m", "mix=solo,pair", "sweep=study")
    assert plan_of("-m", "mix=solo,pair", "sweep=study", "resume=true").points


def test_devices_are_looked_for_once() -> None:
    """A sweep asks the host once, however many points it has."""
    asked = []

    def probe() -> Hardware:
        asked.append(1)
        return hardware_of(GPU)

    plan(["-m", "mix=solo,pair", "seed=1,2,3"], hardware=probe)
    assert len(asked) == 1


def test_a_gpu_that_cannot_be_used_is_no_reason_to_measure_on_the_cpu() -> None:
    """``runtime=auto`` says what is wrong with it; ``runtime=cpu`` is a choice."""
    broken = replace(hardware_of(None), lost="GPU 0: Insufficient Permissions")
    for runtime in ("runtime=auto", "runtime=gpu"):
        with pytest.raises(Refused, match="Insufficient Permissions"):
            plan(["mix=solo", runtime], hardware=lambda: broken)
    (point,) = plan(["mix=solo", "runtime=cpu"], hardware=lambda: broken).points
    assert point.spec.runtime == "cpu"


def test_the_rule_about_foreign_processes_is_part_of_the_run() -> None:
    """By default it is not in the name of what is measured, which older records have without it."""
    (default,) = plan_of("mix=solo").points
    (named,) = plan_of("mix=solo", "measure.foreign=refuse").points
    (warned,) = plan_of("mix=solo", "measure.foreign=warn").points
    assert warned.spec.measure.foreign == "warn"
    assert spec_hash(default.spec) == spec_hash(named.spec) != spec_hash(warned.spec)


def test_another_sweeper_plans_what_is_fixed() -> None:
    """A sweeper that chooses its points as it goes is checked without them."""
    planned = plan_of("-m", "mix=solo", "seed=1,2", "hydra.sweeper._target_=some.Sweeper")
    assert [p.spec.mix for p in planned.points] == ["solo"]


# --- the same as Hydra ------------------------------------------------------------------------------------------------

SWEEPS = [
    [
        "mix=enc_only,bert_base*2+llama_3_2_1b,mistral_7b",
        "precision=fp16,bf16",
        "mps_settings=default,30pct,equal_share",
    ],
    ["mix=pair,mixed", "mix.tenants.a.count=1,3", "mix.tenants.b.batch_size=1,2", "workload.seq_len=64,128"],
    ["models@mix.tenants.b=distilgpt2,mistral_7b", "+models@mix.tenants.c=bert_base,deberta_v3_base", "seed=1,2"],
    ["execution=eager,compile", "attn_implementation=null,eager", "measure.percentiles=[50],[50,90]", "retries=0,1"],
    ["+experiment=mps_percentages", "workload=forward,train", "+arrival@mix.tenants.a.arrival=poisson", "seed=3,4"],
    ["workload.seq_len=64,128", "workload.batch_size=${measure.warmup}", "mix=solo,pair"],
    ["~models@mix.tenants.b", "mix=pair,enc_only", "lease.wait=0,1", "lease.wait=2"],
    ["measure.warmup=3", "mix.tenants.a.count=2", "mix=pair,solo", "measure.iterations=20,30", "precision=bf16"],
    [
        "workload.seq_len=32",
        "workload=train",
        "workload.batch_size=1,2",
        "workload.seq_len=64,16",
        "seed=1,2",
        "seed=1",
    ],
    ["resume=true", "sweep='a b'", "measure.percentiles=[50,9e1]", "mix.tenants.a.slo_ms=1e1", "mix=pair,solo"],
    ["+models@mix.tenants.c=bert_base", "mix=pair,solo", "+experiment=quick", "mix.tenants.c.count=3"],
]


@pytest.mark.parametrize("arguments", SWEEPS)
def test_a_point_made_of_sections_is_what_hydra_composes(composer: Composer, arguments: list[str]) -> None:
    """Groups, values, tenants, lists, single values, experiments, interpolations: field for field the same."""
    points = composer.split(arguments, {})
    master, _ = composer.load(arguments, RunMode.MULTIRUN)
    sections = SectionedComposer(composer, composer.fixed(arguments), master)
    for point in (points[0], points[-1]):
        assert sections.config(point) == to_config(composer.load(point)[0])


def test_a_choice_that_reaches_beyond_its_section_is_composed_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that writes elsewhere, were it allowed to, gives the same as Hydra, alone and together with others."""
    monkeypatch.setattr("mtexp.config.composer.check_choices", lambda repository, choices: None)
    folder = tmp_path / "more" / "precision"
    folder.mkdir(parents=True)
    (folder / "odd.yaml").write_text(
        "# @package _global_\nprecision:\n  name: fp32\nmeasure:\n  iterations: 7\nseed: 5\n"
    )
    composer = Composer(extra=tmp_path / "more")
    sections = SectionedComposer(composer)
    for point in (
        ["precision=odd"],
        ["precision=odd", "measure.warmup=3"],
        ["precision=fp16"],
        ["precision=odd", "mix=solo"],
    ):
        made: Config = sections.config(point)
        assert made == to_config(composer.load(point)[0])
        assert made.seed == (5 if "precision=odd" in point else 0)


def test_a_long_sweep_is_composed_section_by_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of compositions grows with the sum of what is swept, not with the product; what is not costs none."""
    composed = []
    load = Composer.load
    monkeypatch.setattr(Composer, "load", lambda self, *args: composed.append(args) or load(self, *args))
    planned = plan_of(
        *("-m", "mix=solo,pair", "precision=fp16,bf16", "mps_settings=disabled,half"),
        *("seed=range(10)", "tracking=none", "runtime=gpu", "measure.pin_cores=false"),
    )
    assert len(planned.points) == 80
    assert len(composed) == 1 + 2 + 2 + 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["mps_settings=75pct"], "75 % of the SMs gives wrong fp16 results on NVIDIA H200"),
        (["mix=bert_base*5", "mps_settings=equal_share", "precision=bf16"], "20 % of the SMs gives wrong bf16"),
        (["mps_settings=half"], ""),
        (["mps_settings=default"], ""),
        (["mps_settings=75pct", "precision=fp32"], ""),
        (["mps_settings=default", "mix.tenants.b.active_thread_pct=40"], "40 % of the SMs"),
        (["mix=stress_sm*3", "mps_settings=equal_share"], ""),
    ],
)
def test_a_percentage_that_is_known_to_be_wrong_is_warned_about(
    argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything starts, with the percentages near by that are right."""
    monkeypatch.setattr("mtexp.config.known.torch_versions", lambda: ("2.11.0+cu130", "13.0"))
    monkeypatch.setattr("mtexp.config.plan._cores", lambda launcher: 64)
    found = plan_of(*argv).warnings
    assert len(found) == bool(said)
    if said:
        assert said in found[0]
        assert "Right near by" in found[0]


def test_a_sweep_is_warned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtexp.config.known.torch_versions", lambda: ("2.11.0+cu130", "13.0"))
    monkeypatch.setattr("mtexp.config.plan._cores", lambda launcher: 64)
    assert len(plan_of("-m", "mps_settings=75pct", "workload.batch_size=1,2,4").warnings) == 1


def test_on_another_gpu_or_stack_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtexp.config.known.torch_versions", lambda: ("2.8.0", "12.8"))
    assert plan_of("mps_settings=75pct").warnings == ()
    monkeypatch.setattr("mtexp.config.known.torch_versions", lambda: ("2.11.0", "13.0"))
    other = Device("gpu", 0, "GPU-1", "NVIDIA A100-SXM4-80GB", 81_920, 108)
    assert plan(["mps_settings=75pct"], hardware=lambda: hardware_of(other)).warnings == ()
    assert plan(["mps_settings=75pct", "runtime=cpu"], hardware=lambda: hardware_of(GPU)).warnings == ()
