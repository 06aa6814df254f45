"""Configuration folders of the user: ``--config-dir`` and ``hydra.searchpath``, in the plan as in the run."""

import pytest

from mtexp.config.composer import Composer, with_tokens
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused

MIX = """
defaults:
  - /models@tenants.front: bert_base
  - /models@tenants.back: tiny
  - _self_
"""
MODEL = "defaults: [distilgpt2, _self_]\nname: tiny\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a mix and a model of the user's own; the current folder is another."""
    own = tmp_path / "own"
    for name, text in {"mix/prod.yaml": MIX, "models/tiny.yaml": MODEL}.items():
        (own / name).parent.mkdir(parents=True)
        (own / name).write_text(text)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return own


def _plan(*argv):
    return plan(argv, hardware=lambda: hardware_of(None))


@pytest.mark.parametrize("how", ["--config-dir={}", "hydra.searchpath=[file://{}]", "hydra.searchpath=['file://{}']"])
def test_mixes_and_models_of_an_own_folder_are_planned(folder, how):
    planned = _plan(how.format(folder), "mix=prod", "baseline=skip")
    assert [tenant.model.name for tenant in planned.points[0].spec.tenants] == ["bert_base", "tiny"]


@pytest.mark.parametrize("how", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_a_mix_without_a_name_is_called_like_its_file_also_in_a_sweep(folder, how):
    planned = _plan(how.format(folder), "-m", "mix=prod,pair", "seed=1,2")
    assert [point.spec.mix for point in planned.points] == ["prod", "prod", "pair", "pair"]


def test_tokens_of_own_models_work_beside_an_own_search_path(folder):
    planned = _plan(f"hydra.searchpath=[file://{folder}]", "mix=tiny*2+bert_base", "mps_settings=30pct")
    assert planned.points[0].spec.mix == "tiny*2+bert_base"
    assert "mtexp-token://" in next(text for text in planned.argv if "searchpath" in text)


def test_a_file_of_the_user_comes_before_a_token(folder):
    (folder / "mix" / "bert_base.yaml").write_text("defaults: [/models@tenants.x: distilgpt2, _self_]\n")
    planned = _plan(f"hydra.searchpath=[file://{folder}]", "mix=bert_base")
    assert planned.points[0].spec.tenants[0].model.name == "distilgpt2"


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("--config-dir={}/nope", "--config-dir"),
        ("--config-path={}/nope", "--config-path"),
        ("hydra.searchpath=[file://{}/nope]", "hydra.searchpath"),
        ("hydra.searchpath={}", "hydra.searchpath"),
    ],
)
def test_a_folder_that_is_not_there_is_one_message(tmp_path, argument, key):
    with pytest.raises(Refused) as refused:
        _plan(argument.format(tmp_path), "mix=prod")
    (problem,) = refused.value.problems
    assert problem.key == key
    assert str(tmp_path) in str(problem)


@pytest.mark.parametrize(
    ("typed", "handed"),
    [
        ("hydra.searchpath=[file:///a]", "hydra.searchpath=[file:///a,mtexp-token://]"),
        ("hydra.searchpath=[]", "hydra.searchpath=[mtexp-token://]"),
        ("hydra.searchpath=[mtexp-token://,file:///a]", "hydra.searchpath=[mtexp-token://,file:///a]"),
        ("mix=[a]", "mix=[a]"),
    ],
)
def test_tokens_stay_in_a_search_path_that_is_replaced(typed, handed):
    assert with_tokens([typed]) == [handed]


def test_help_lists_choices_of_an_own_search_path(folder):
    composer = Composer()
    composer.search(f"hydra.searchpath=[file://{folder}]")
    assert "prod" in composer.help()


def test_a_dialled_stressor_is_a_model_beside_the_one_it_comes_from(folder):
    """One sweep has both intensities, each with its own name and shape; a wrong size names its key."""
    own = folder / "models" / "stress_dram_64.yaml"
    own.write_text("name: stress_dram_64\nrole: stressor\narchitecture: dram\nshape: {mib: 64, repeats: 64}\n")
    mixes = "mix=bert_base+stress_dram,bert_base+stress_dram_64"
    planned = _plan(f"--config-dir={folder}", "-m", mixes, "runtime.shrink=none")
    shapes = {point.spec.tenants[1].model.name: point.spec.tenants[1].model.shape for point in planned.points}
    assert shapes == {"stress_dram": {"mib": 1024, "repeats": 4}, "stress_dram_64": {"mib": 64, "repeats": 64}}
    own.write_text("name: stress_dram_64\nrole: stressor\narchitecture: dram\nshape: {mib: 0, repeats: 64}\n")
    with pytest.raises(Refused, match=r"shape\.mib.*above 0"):
        _plan(f"--config-dir={folder}", "mix=bert_base+stress_dram_64")


@pytest.mark.parametrize(
    ("kind", "shape", "named"),
    [
        ("dram", "{mib: 64}", r"shape=.* Add repeats"),
        ("sm", "{}", r"shape=.* Add size and repeats"),
        ("launch", "{repeats: 3, mib: 64}", r"shape\.mib=64: .*only repeats"),
        ("dram", "{mbi: 64, mib: 64, repeats: 4}", r"shape\.mbi=64: .*only mib and repeats"),
    ],
)
def test_a_shape_of_another_kind_of_stressor_is_refused(folder, kind, shape, named):
    """Each kind needs its own sizes, and reads no others."""
    text = f"name: dialled\nrole: stressor\narchitecture: {kind}\nshape: {shape}\n"
    (folder / "models" / "dialled.yaml").write_text(text)
    with pytest.raises(Refused, match=rf"mix\.tenants\.dialled\.{named}"):
        _plan(f"--config-dir={folder}", "mix=bert_base+dialled")
