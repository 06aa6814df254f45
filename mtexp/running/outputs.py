"""What the tenants' own checks say about their results, as findings. May touch: the table of known percentages.

The checks are :mod:`mtexp.tenant.outputs`; their results are facts of each tenant: ``layers_check``, ``outputs_check``,
``weights_checksum``, ``inputs_checksum``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtexp.metrics.finding import Finding
from mtexp.records.computed import computed_with, differs
from mtexp.running.baselines import BaselineRun
from mtexp.running.measured import Measurement
from mtexp.sharing.known_numerics import known_of
from mtexp.spec import RunSpec, TenantSpec

_GROWN_MIB = 16.0
"""Growth that is no finding: what a library keeps for later."""
_LIST = "python -m mtexp.sharing.numerics lists those of this machine"


def output_findings(spec: RunSpec, measured: Measurement, alone: Mapping[str, BaselineRun]) -> Iterator[Finding]:
    """Wrong outputs, what was not checked, and weights that are not those of the baseline."""
    if spec.kind == "profile" or measured.failure is not None:
        return
    yield from _unchecked(spec)
    for tenant in spec.tenants:
        facts = measured.facts_before.get(tenant.id, {}) | measured.facts_after.get(tenant.id, {})
        yield from _not_offered(tenant, facts, spec.measure.check_outputs)
        yield from _grown(tenant, measured)
        yield from _layers(tenant, facts)
        yield from _outputs(tenant, facts)
        yield from _other_weights(tenant, facts, alone.get(tenant.id))


def _unchecked(spec: RunSpec) -> Iterator[Finding]:
    stressors = [tenant.id for tenant in spec.tenants if tenant.model.role == "stressor"]
    servers = [tenant.id for tenant in spec.tenants if tenant.model.server is not None]
    if not spec.measure.check_outputs:
        what, remedy = "outputs were not checked (measure.check_outputs=false)", "Set it to true."
    elif stressors:
        what = f"the outputs of {', '.join(stressors)} were not checked"
        remedy = "A stressor computes nothing that could be compared."
    elif servers:
        what = f"the answers of {', '.join(servers)} were not checked, but for their status"
        remedy = "What a server should answer is not known here: compare some answers with those that you know."
    else:
        return
    yield Finding("note", "output-unchecked", what, remedy)


def _not_offered(tenant: TenantSpec, facts: Mapping[str, Any], asked: bool) -> Iterator[Finding]:
    if asked and tenant.model.target and "layers_check" not in facts:
        yield Finding(
            "note",
            "output-unchecked",
            f"the outputs of {tenant.id} were not checked: a request of {tenant.model.target} returns no tensor",
            "Have it return what it computed.",
            tenant.id,
        )


def _grown(tenant: TenantSpec, measured: Measurement) -> Iterator[Finding]:
    """Memory that the user's own code took from the device after its warm-up: such a call waits for the device."""
    before, after = (
        facts.get(tenant.id, {}).get("memory_allocated_mib") for facts in (measured.facts_before, measured.facts_after)
    )
    if tenant.model.target and before is not None and after is not None and after > before + _GROWN_MIB:
        yield Finding(
            "warning",
            "memory-grew",
            f"{tenant.id} holds {after - before:.0f} MiB more device memory after the window than before it",
            "Allocate what a request needs in the factory, and let go of what it returned.",
            tenant.id,
        )


def _layers(tenant: TenantSpec, facts: Mapping[str, Any]) -> Iterator[Finding]:
    check = facts.get("layers_check", {})
    if check.get("unchecked"):
        yield Finding(
            "warning",
            "output-unchecked",
            f"{check['unchecked']} products of {tenant.id} could not be compared with float32: out of memory",
            "Leave the device some 200 MiB, or set measure.check_outputs=false.",
            tenant.id,
        )
    if not check.get("wrong_kinds"):
        return
    example = check["examples"][0]
    yield Finding(
        "invalid",
        "wrong-output",
        f"{tenant.id} computes wrong results: {check['wrong_kinds']} of the {check['kinds']} kinds of products in its "
        f"layers are not what float32 gives, {example['product']} in {example['precision']} {_off_by(example)}"
        f"{_on(facts)}",
        _remedy(tenant, facts, overflow="overflow" in example),
        tenant.id,
    )


def _outputs(tenant: TenantSpec, facts: Mapping[str, Any]) -> Iterator[Finding]:
    check = facts.get("outputs_check", {})
    training = tenant.workload.kind == "train"
    if check.get("unchecked"):
        yield Finding(
            "warning",
            "output-unchecked",
            f"the outputs of {tenant.id} in the window could not be compared: {check['unchecked']}",
            "Leave the device some 200 MiB, or set measure.check_outputs=false.",
            tenant.id,
        )
    if check.get("wrong"):
        outputs = "losses" if training else "outputs"
        what = "are NaN or infinite" if training else f"are not those of its warm-up, {_off_by(check['worst'])}"
        remedy = (
            "The same request gave another result while it was measured: repeat the run, then look at XID errors and "
        )
        remedy += "memory errors (nvidia-smi -q -d ECC), and try another driver or torch."
        if training:
            remedy = "Without loss scaling fp16 may overflow: use precision=bf16 or fp32."
        yield Finding(
            "invalid",
            "wrong-output",
            f"{check['wrong']} of the {check['kept']} {outputs} that were kept of {tenant.id} {what}{_on(facts)}",
            remedy,
            tenant.id,
        )
    if check.get("against_layers_wrong"):
        yield Finding(
            "invalid",
            "wrong-output",
            f"the output of {tenant.id} with execution={tenant.execution} is not that of its checked layers, "
            f"{_off_by(check['against_layers'])}{_on(facts)}",
            _remedy(tenant, facts),
            tenant.id,
        )


def _other_weights(tenant: TenantSpec, facts: Mapping[str, Any], alone: BaselineRun | None) -> Iterator[Finding]:
    if alone is not None and differs(computed_with(tenant.seed, facts), alone.ref.computed_with):
        yield Finding(
            "warning",
            "other-weights",
            f"{tenant.id} computed with other weights or inputs than its baseline: the same seed gave other numbers",
            "Its power, and with it its clock, may differ. Measure the baseline again: baseline.max_age_h=0.",
            tenant.id,
        )


def _off_by(deviation: Mapping[str, Any]) -> str:
    if deviation["nonfinite"]:
        return f"with {deviation['nonfinite']} NaN or infinite numbers"
    error = deviation["error"]
    return f"with {deviation['off']} wrong numbers" + ("" if error is None else f", relative error {error:.2g}")


def _on(facts: Mapping[str, Any]) -> str:
    return f", on {facts['sm_count']} SMs" if "sm_count" in facts else ""


def _remedy(tenant: TenantSpec, facts: Mapping[str, Any], *, overflow: bool = False) -> str:
    if overflow:
        return f"Its numbers are larger than {tenant.precision} holds: use precision=bf16 or fp32."
    if 0 < tenant.mps.active_thread_pct < 100:
        known = known_of(
            gpu=str(facts.get("device_name", "")),
            torch=str(facts.get("torch_version", "")),
            cuda=str(facts.get("torch_cuda_version", "")),
            precision=tenant.precision,
        )
        right = " and ".join(f"{pct:g}" for pct in known.right_near(tenant.mps.active_thread_pct)) if known else ""
        known_right = f" ({right} are known to be right here)" if right else ""
        return (
            f"Libraries choose kernels by the SM count, and those for this one are wrong. Use another percentage"
            f"{known_right}: {_LIST}. Or use precision=fp32, or mps_settings=default without a percentage."
        )
    return (
        "Try another execution or precision, and another version of torch; its times are those of a wrong computation."
    )
