"""A setting of a tenant in a sweep over mixes: every mix has it as it was typed, or is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtexp.config.composer import Composer
from tests.config.planning import plan_of, refusal


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BERTS = ("-m", "mix=bert_base+llama_3_2_1b,bert_base*2")
TWO_MIXES = ("-m", "mix=bert_base+llama_3_2_1b,llama_3_2_1b+mistral_7b")


@pytest.mark.parametrize(
    ("tenant", "without", "there"),
    [
        ("bert_base", ["llama_3_2_1b+mistral_7b"], ["llama_3_2_1b, mistral_7b"]),
        (
            "x",
            ["bert_base+llama_3_2_1b", "llama_3_2_1b+mistral_7b"],
            ["bert_base, llama_3_2_1b", "llama_3_2_1b, mistral_7b"],
        ),
    ],
)
def test_a_mix_of_a_sweep_without_the_tenant_is_named(tenant: str, without: list[str], there: list[str]) -> None:
    """With the tenants that it has; also where no mix has it."""
    text = refusal(*TWO_MIXES, f"mix.tenants.{tenant}.batch_size=2")
    assert text.count("refused: ") == len(without)
    assert all(f"There is no mix.tenants.{tenant} in mix={mix}." in text for mix in without)
    assert all(f"keys of mix.tenants: {names}" in text for names in there)
    assert "all 2 points" in text


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("", ""),
        ("'8'", "8"),
        ("'null'", "null"),
        ("'true'", "true"),
        ('"it\'s"', "it's"),
        ("'a,b (c) = {d}'", "a,b (c) = {d}"),
        ("'choice(1)'", "choice(1)"),
        ("'a&b'", "a&b"),
    ],
)
def test_a_value_of_a_tenant_is_in_every_mix_of_a_sweep_what_was_typed(
    composer: Composer, value: str, meant: str
) -> None:
    """Also one that Hydra would read as something else inside choice()."""
    planned = plan_of(*BERTS, f"mix.tenants.bert_base.source={value}")
    typed = [text for point in planned.points for text in point.overrides if text.startswith("mix.tenants.")]
    assert [composer.parse(text).value() for text in typed] == [meant, meant]


def test_null_as_a_setting_of_a_tenant_holds_in_every_mix_of_a_sweep() -> None:
    """The run's own value: an experiment of the user's may have set the tenant's."""
    planned = plan_of(*BERTS, "mix.tenants.bert_base.batch_size=null", "workload.batch_size=5")
    assert [point.spec.tenants[0].workload.batch_size for point in planned.points] == [5, 5]


@pytest.mark.parametrize("add", ["+", "++"])
def test_a_setting_that_is_added_holds_in_every_mix_of_a_sweep(add: str) -> None:
    planned = plan_of(*BERTS, f"{add}mix.tenants.bert_base.batch_size=3")
    assert [point.spec.tenants[0].workload.batch_size for point in planned.points] == [3, 3]


def test_a_value_that_looks_another_up_holds_in_every_mix_of_a_sweep() -> None:
    planned = plan_of(*BERTS, "mix.tenants.bert_base.seq_len=${workload.batch_size}", "workload.batch_size=5,6")
    assert [point.spec.tenants[0].workload.seq_len for point in planned.points] == [5, 6, 5, 6]


def test_mixes_without_m_are_told_so_and_not_that_a_tenant_is_missing() -> None:
    text = refusal(BERTS[1], "mix.tenants.bert_base.batch_size=3")
    assert "one value in a single run. Add -m" in text
    assert "There is no" not in text


def test_a_value_that_hydra_cannot_write_for_the_points() -> None:
    """It holds where the default mix has the tenant, and else the message says what to do."""
    odd = "'a & b'"
    assert len(plan_of("-m", "mix=pair,solo", f"mix.tenants.a.source={odd}").points) == 2
    text = refusal(*BERTS, f"mix.tenants.bert_base.source={odd}")
    assert "There is no mix.tenants.bert_base in the default mix." in text
    assert "belongs into a file (--config-dir)" in text


def test_a_setting_of_the_sweeper_that_hydra_cannot_compose_is_refused() -> None:
    assert "Hydra cannot compose it" in refusal("-m", "mix=bert_base,bert_base*2", "+hydra.sweeper.params.seed='1,2'")
