"""Specs and facts for the tests of mtexp.sharing."""

from mtexp.spec import ModelSpec, MpsLimits, RunSpec, SharingSpec, TenantSpec

UUID = "GPU-cb1213a3-d6a4-be7f-0000-000000000000"


def make_spec(*limits: MpsLimits, mps_mode: str = "managed", mode: str = "processes", **sharing: object) -> RunSpec:
    """A run of one tenant for each of ``limits``: a, b, c ..."""
    model = ModelSpec(name="bert_base", role="encoder", architecture="bert")
    tenants = tuple(TenantSpec(id=f"t{n}", model=model, mps=limit) for n, limit in enumerate(limits))
    shared = SharingSpec(mode=mode, mps=mps_mode, mps_mode=mps_mode, **sharing)  # type: ignore[arg-type]
    return RunSpec(mix=f"bert_base*{len(tenants)}", tenants=tenants, sharing=shared, runtime="gpu")


def facts_of(pid: int, **changes: object) -> dict[str, object]:
    """What a healthy MPS tenant on an H200 reports."""
    return {"pid": pid, "mps_enabled": 1, "sm_count": 132, "gpu_uuid": UUID, "stream_id": pid} | changes
