"""Findings about weights that the tenants of a run have in memory once. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from mtexp.metrics.finding import Finding
from mtexp.running.measured import Measurement
from mtexp.spec import RunSpec
from mtexp.text_tables import rounded


def shared_findings(spec: RunSpec, measured: Measurement) -> Iterator[Finding]:
    """Whether all tenants of ``spec`` had the same weights in one place, and what each had beside them."""
    facts = measured.facts_after
    if not spec.sharing.share_weights or len(spec.tenants) < 2 or len(facts) < len(spec.tenants):
        return
    ways = sorted(own.get("weights", "own") for own in facts.values())
    sums = {own.get("weights_checksum") for own in facts.values()}
    if ways != ["borrowed"] * (len(facts) - 1) + ["kept"] or len(sums) != 1:
        yield Finding(
            "invalid",
            "weights-not-shared",
            f"the tenants have {', '.join(ways)} weights with {len(sums)} checksums; expected one keeper, borrowers, "
            "and one checksum",
            "Set share_weights=false.",
        )
        return
    once_mib = next(iter(facts.values()))["shared_weights_mib"]
    beside = [f"{name} {own['memory_peak_mib']:.0f}" for name, own in facts.items()]
    what = "beside them torch allocated at most" if spec.runtime == "gpu" else "a process had at most, with them,"
    yield Finding(
        "note",
        "weights-shared",
        f"weights of {rounded(once_mib, 3)} MiB are in memory once for {len(facts)} tenants; "
        f"{what} (MiB) {', '.join(beside)}",
        "With weights of its own, every further tenant would need as much again.",
    )
