"""Which points of a sweep are measured side by side, and what is said where they cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtexp.config import compose_spec
from mtexp.config.hardware import Hardware, hardware_of
from mtexp.config.plan import Plan, plan
from mtexp.config.problems import Refused
from mtexp.config.schema import SideBySide
from mtexp.config.sessions import sessions_of
from mtexp.host import Device

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 140_000, 132)
PAIR = ("-m", "mix=bert_base+llama_3_2_1b")


def planned(*arguments: str, hardware: Hardware | None = None) -> Plan:
    return plan([*PAIR, *arguments, "tracking=none"], hardware=lambda: hardware or hardware_of(GPU))


def test_points_that_differ_only_in_sharing_are_put_together() -> None:
    """By mix and repetition, whatever the order in which they are written."""
    found = planned("mps_settings=disabled,default", "execution=eager,cuda_graph", "repetitions=2")
    assert len(found.points) == 8
    assert len(found.sessions.groups) == 4
    for group in found.sessions.groups:
        specs = [found.points[number].spec for number in group]
        assert {spec.sharing.mps for spec in specs} == {"disabled", "default"}
        assert len({(spec.repetition, spec.tenants[0].execution) for spec in specs}) == 1
    assert not found.sessions.separate


def test_streams_and_one_mode_twice_count() -> None:
    """Anything that is a way to share; a mode written twice is an A/A check."""
    assert planned("sharing=processes,streams").sessions.groups == ((0, 1),)
    assert planned("mps_settings=disabled,disabled").sessions.groups == ((0, 1),)


def test_limited_shares_take_part_where_crossover_is_asked_for() -> None:
    """Without that they are measured in the sustained design, by themselves."""
    modes = "mps_settings=disabled,default,half"
    assert planned(modes).sessions.groups == ((0, 1),)
    assert planned(modes, "measure.design=crossover").sessions.groups == ((0, 1, 2),)


def test_nobody_else_is() -> None:
    """Runs of the sustained design, other differences than sharing, and side_by_side=never."""
    for arguments in (
        ("mps_settings=disabled,default", "measure.design=sustained"),
        ("mps_settings=disabled,default", "side_by_side=never"),
        ("workload.batch_size=1,2",),
    ):
        assert planned(*arguments).sessions.groups == ()


@pytest.mark.parametrize(
    ("arguments", "memory_mib", "why"),
    [
        (("mps_settings=disabled,default",), 7000, "MiB"),
        (("mps_settings=disabled,external",), 140_000, "external"),
        (("mps_settings=disabled,default", "hydra/launcher=joblib"), 140_000, "launcher"),
    ],
)
def test_what_cannot_be_side_by_side_says_why(arguments: tuple[str, ...], memory_mib: int, why: str) -> None:
    """In a note before the first run and in each record; where it is required, the sweep is refused."""
    hardware = hardware_of(replace(GPU, memory_mib=memory_mib))
    found = planned(*arguments, hardware=hardware)
    assert not found.sessions.groups
    assert any(why in reason for reason in found.sessions.separate.values())
    assert any(why in note for note in found.notes)
    with pytest.raises(Refused, match=f"side_by_side=require.*{why}"):
        planned(*arguments, "side_by_side=require", hardware=hardware)


def test_required_with_nothing_beside_is_refused() -> None:
    """A sweep of one mode; a share that is limited."""
    for arguments in (("workload.batch_size=1,2",), ("mps_settings=disabled,default,half",)):
        with pytest.raises(Refused, match="side_by_side=require"):
            planned(*arguments, "side_by_side=require")


MIXES = ("-m", "mix=bert_base*2,bert_base+distilgpt2", "mps_settings=disabled,default", "side_by_side=mixes")


def mixes(*arguments: str, memory_mib: int = 140_000) -> Plan:
    hardware = hardware_of(replace(GPU, memory_mib=memory_mib))
    return plan([*MIXES, *arguments, "tracking=none"], hardware=lambda: hardware)


def test_mixes_are_put_together_where_that_is_asked_for() -> None:
    """All of one regime: eager mode and graphs are sessions of their own."""
    assert mixes().sessions.groups == ((0, 1, 2, 3),)
    found = mixes("execution=eager,cuda_graph")
    assert [len(group) for group in found.sessions.groups] == [4, 4]
    for group in found.sessions.groups:
        assert len({found.points[number].spec.tenants[0].execution for number in group}) == 1


def test_mixes_that_cannot_be_together_are_measured_one_after_another() -> None:
    """Their sharing modes are still side by side where that is possible; a note says why."""
    short = mixes(memory_mib=4000)
    assert short.sessions.groups == ((0, 1), (2, 3))
    assert any("mixes run one after the other" in note and "MiB" in note for note in short.notes)
    streams = mixes("sharing=processes,streams", "mps_settings=disabled")
    assert any("cannot share one process" in note for note in streams.notes)
    assert all(len(group) == 2 for group in streams.sessions.groups)


def test_tenants_of_several_mixes_do_not_share_weights() -> None:
    """Each mix has a model of its own to share; its sharing modes are still side by side."""
    found = mixes("mix=bert_base*2,distilgpt2*2", "share_weights=true")
    assert found.sessions.groups == ((0, 1), (2, 3))
    assert any("share_weights" in note for note in found.notes)


def test_weights_in_memory_once_count_once() -> None:
    """Two sharing modes of one mix fit side by side where a copy for each tenant would not."""
    modes = ("-m", "mix=llama_3_2_1b*4", "mps_settings=disabled,default", "tracking=none")
    hardware = hardware_of(replace(GPU, memory_mib=14_000))
    groups = [
        plan([*modes, *more], hardware=lambda: hardware).sessions.groups for more in ((), ("share_weights=true",))
    ]
    assert groups == [(), ((0, 1),)]


def test_the_reason_of_one_session_is_not_lost_in_the_next() -> None:
    """Mixes of one seed cannot be together, those of the next can."""
    both, options = ("bert_base*2", "bert_base+distilgpt2"), ["runtime=gpu", "measure.design=crossover"]
    runs = [("streams", 0), ("processes", 1)]
    specs = [compose_spec([f"mix={m}", f"sharing={s}", f"seed={n}", *options], GPU) for s, n in runs for m in both]
    found = sessions_of(specs, SideBySide.mixes, hardware_of(GPU), serial=True)
    assert found.groups == ((2, 3),)
    assert "cannot share one process" in found.mixes_separate
