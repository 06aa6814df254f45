"""A mix, model or experiment from somebody else is data: it sets its own keys and looks nothing up."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.config.plan import plan
from mtexp.config.problems import Refused

GOOD = """defaults:
  - /models@tenants.a: bert_base
  - _self_
name: theirs
models: bert_base
"""
BAD = {
    "another package": "# @package _global_\n" + GOOD.replace("name", "hydra:\n  run:\n    dir: /tmp/x\nname"),
    "the store": GOOD.replace("  - _self_", "  - /tracking@_global_.tracking: server\n  - _self_"),
    "hydra's groups": GOOD + "",
    "a secret": GOOD.replace("theirs", "${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "a secret, in parts": GOOD.replace("theirs", "${oc.${x}:AWS_SECRET_ACCESS_KEY}"),
    "a secret, with spaces": GOOD.replace("theirs", "'${ oc.env : AWS_SECRET_ACCESS_KEY }'"),
    "a key that looks up": GOOD + "tenants:\n  '${oc.env:HOME}': {}\n",
}
BAD["hydra's groups"] = GOOD.replace("  - _self_", "  - override /hydra/launcher: joblib\n  - _self_")


def _planned(folder: Path, group: str, text: str, *argv: str) -> None:
    (folder / group).mkdir(exist_ok=True)
    (folder / group / "theirs.yaml").write_text(text)
    plan(["--config-dir", str(folder), "runtime=cpu", *argv])


def test_a_mix_of_its_own_keys_is_run(tmp_path: Path) -> None:
    _planned(tmp_path, "mix", GOOD, "mix=theirs")


@pytest.mark.parametrize("name", BAD)
def test_a_mix_that_reaches_further_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name of the file; a secret is nowhere in the message."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-planted")
    with pytest.raises(Refused) as refused:
        _planned(tmp_path, "mix", BAD[name], "mix=theirs")
    assert "theirs" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("included", ["more", "/mix/more", "/experiment/more", "/more", "${models}"])
def test_a_file_that_it_includes_reaches_no_further(included: str, tmp_path: Path) -> None:
    """Hydra lists choices of groups, and no files that are included in them."""
    for group in ("", "mix", "experiment"):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / "more.yaml").write_text("# @package _global_\nhydra:\n  run:\n    dir: /tmp/x\n")
    with pytest.raises(Refused, match=r"mix=theirs|(mix|experiment|)=more"):
        _planned(tmp_path, "mix", GOOD.replace("  - _self_", f"  - {included}\n  - _self_"), "mix=theirs")


def test_a_file_of_its_own_keys_may_be_included(tmp_path: Path) -> None:
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "more.yaml").write_text("start_order: []\n")
    _planned(tmp_path, "mix", GOOD.replace("  - _self_", "  - more\n  - _self_"), "mix=theirs")


def test_it_is_refused_in_a_sweep_too(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="theirs"):
        _planned(tmp_path, "mix", BAD["a secret"], "-m", "mix=solo,theirs")


@pytest.mark.parametrize(
    "text",
    [
        "tracking:\n  uri: http://theirs\n",
        "hydra:\n  callbacks:\n    x:\n      _target_: os.system\n",
        "defaults:\n  - override /tracking: server\n",
        "measure:\n  iterations: ${oc.env:N}\n",
    ],
)
def test_an_experiment_does_not_say_where_results_go(text: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="theirs"):
        _planned(tmp_path, "experiment", f"# @package _global_\n{text}", "+experiment=theirs")


def test_what_the_user_types_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITERATIONS", "70")
    planned = plan(["runtime=cpu", "measure.iterations=${oc.env:ITERATIONS}"])
    assert planned.points[0].spec.measure.iterations == 70
