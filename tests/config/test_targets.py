"""Code of the user in a configuration: found without being imported, named by its source, refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mtexp.config import Composer, compose_spec, to_spec
from mtexp.config.composer import to_config
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.errors import ConfigError
from mtexp.spec import RunSpec, spec_hash
from mtexp.tracking.ledger import baseline_hash

SOURCE = """
import numpy
import torch

raise SystemExit("imported")

def build(**_):
    return None
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package and a module that must not be imported, which is the current one."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "package" / "module.py").write_text(SOURCE)
    (tmp_path / "alone.py").write_text(SOURCE)
    (tmp_path / "conf" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(here: Path, text: str, *more: str) -> RunSpec:
    (here / "conf" / "models" / "mine.yaml").write_text(f"name: mine\n{text}\n")
    arguments = ["--config-dir", "conf", "mix=mine", "baseline=skip", "runtime=cpu", "tracking=none", *more]
    made = plan(arguments)
    assert any("import" in note and str(here) in note for note in made.notes)
    return made.points[0].spec


@pytest.mark.parametrize("target", ["package.module:build", "alone:build"])
def test_a_target_is_found_and_not_imported(here: Path, target: str) -> None:
    """Nor is a package around it; the plan says what tenants will import, and from where."""
    (tenant,) = planned(here, f"target: {target}\nparams: {{width: -3}}").tenants
    assert (tenant.model.role, tenant.model.target, tenant.model.code_path) == ("custom", target, str(here))
    assert tenant.model.params == {"width": -3}
    assert list(tenant.model.code["packages"]) == ["numpy"]
    assert target in tenant.request


def test_another_source_is_another_baseline(here: Path) -> None:
    """A changed file anywhere in the package; the same source in another folder is the same."""
    first = planned(here, "target: package.module:build")
    again = planned(here, "target: package.module:build")
    (here / "package" / "other.py").write_text("x = 1\n")
    changed = planned(here, "target: package.module:build")
    other_params = planned(here, "target: package.module:build\nparams: {a: 1}")
    moved = replace(again.tenants[0], model=replace(again.tenants[0].model, code_path="/elsewhere"))
    hashes = [baseline_hash(spec.tenants[0], spec, {}) for spec in (first, again, changed, other_params)]
    assert hashes[0] == hashes[1] == baseline_hash(moved, again, {})
    assert len(set(hashes)) == 3
    assert spec_hash(first) == spec_hash(replace(again, tenants=(moved,))) != spec_hash(changed)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("target: package.module", "colon"),
        ("target: packige.module:build", "There is no module packige"),
        ("target: package.modul:build", "There is no module package.modul"),
        ("target: package.module:bild", "Did you mean build"),
        ("target: math:sqrt", "math"),
        ("target: conf.models.own:build", "Add an empty __init__.py to the folder models"),
        ("target: alone:build\narchitecture: bert", "Leave"),
        ("target: alone:build\nparams: {device: cpu}", "params.device=cpu"),
        ("target: alone:build\nworkload: decode", "workload=decode"),
        ("params: {a: 1}", "package.module:factory"),
        ("role: custom", "package.module:factory"),
    ],
)
def test_a_wrong_target_is_refused_before_anything_starts(here: Path, text: str, why: str) -> None:
    """With the key, what is allowed and what to do."""
    composed, _ = Composer().load(["~mix", "runtime=cpu"])
    OmegaConf.set_struct(composed, False)
    made = OmegaConf.merge(
        composed, {"mix": {"name": "m", "tenants": {"mine": {"name": "mine", **yaml.safe_load(text)}}}}
    )
    with pytest.raises(ConfigError, match=why):
        to_spec(to_config(made), hardware_of(None))


def test_a_target_can_be_given_on_the_command_line(here: Path) -> None:
    """A tenant without a file of its own, as a token; its parameters are added to it."""
    spec = compose_spec(["mix=bert_base+target:package.module:build*2", "+mix.tenants.module_build.params.width=3"])
    assert [tenant.id for tenant in spec.tenants] == ["bert_base", "module_build_0", "module_build_1"]
    assert spec.tenants[1].model.target == "package.module:build"
    assert spec.tenants[1].model.params == {"width": 3}
    assert spec.mix == "bert_base+module_build*2"
