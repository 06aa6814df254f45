"""The terminal's summary of sharing modes that were measured side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mtexp.records.record import RunRecord

_MOST_TENANTS = 8


def side_by_side_lines(records: Sequence[RunRecord]) -> Iterator[str]:
    """For each mode of a session its STP against the reference, and what each tenant gains and pays; else nothing.

    Args:
        records: Of the runs that were measured together.
    """
    by_id = {record.record_id: record for record in records}
    for record in records:
        reference = by_id.get(record.session_reference)
        if reference is None:
            continue
        mode, other = _mode(record), _mode(reference)
        yield f"{mode} beside {other}, {record.metrics.get('rounds', 0):.0f} rounds:"
        key = "stp_whole_ratio" if "stp_whole_ratio" in record.metrics else "stp_ratio"
        if key in record.metrics:
            against = " (both against alone without a mode)" if key == "stp_whole_ratio" else ""
            yield f"  STP {_interval(key, record.metrics)} times that of {other}{against}: {_said(key, record.metrics)}"
        for tenant in record.tenants[:_MOST_TENANTS]:
            if "latency_ratio" in tenant.metrics:
                yield f"  {tenant.id}: {', '.join(_of_tenant(tenant.metrics))}"
        if len(record.tenants) > _MOST_TENANTS:
            yield f"  and {len(record.tenants) - _MOST_TENANTS} more"


def _mode(record: RunRecord) -> str:
    sharing = record.run_spec.sharing
    if sharing.mode != "processes":
        return sharing.mode
    mode = "time slicing" if sharing.mps_mode == "disabled" else f"mps_settings={sharing.mps}"
    return f"{mode} with shared weights" if sharing.share_weights else mode


def _of_tenant(metrics: Mapping[str, float]) -> Iterator[str]:
    yield f"latency {_interval('latency_ratio', metrics)} times"
    if "mode_cost" in metrics:
        yield f"alone {_interval('mode_cost', metrics)} times (mode_cost)"
    if "slowdown_whole" in metrics:
        yield f"slowdown {_interval('slowdown_whole', metrics)} against alone without a mode"


def _interval(key: str, metrics: Mapping[str, float]) -> str:
    low, high = (metrics.get(f"{key}_ci_{end}", float("nan")) for end in ("low", "high"))
    return f"{metrics[key]:.3f} [{low:.3f}, {high:.3f}]"


def _said(key: str, metrics: Mapping[str, float]) -> str:
    low, high = metrics.get(f"{key}_ci_low", 0.0), metrics.get(f"{key}_ci_high", float("inf"))
    return "more" if low > 1 else "less" if high < 1 else "no difference seen"
