"""A CUDA failure of a tenant becomes a sentence that says what it means and what to do."""

import pytest

from mtexp.sharing.explain import explain

MPS = {"mode": "mps", "uid": 1000, "tenants": 49, "client_limit": 48, "pipe_directory": "/tmp/mtexp-1000-1/pipe"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server", "stale MPS directory"),
        ("cuInit failed with error 805", "stale MPS directory /tmp/mtexp-1000-1/pipe"),
        ("CUDA_ERROR_MPS_CONNECTION_FAILED", "unset CUDA_MPS_PIPE_DIRECTORY"),
        ("error code 806", "server died"),
        ("CUDA error: MPS server is not ready to accept new MPS client requests", "takes no clients now"),
        ("the hardware resources required to create MPS client have been exhausted", "49 tenants, limit 48"),
        ("error: 809", "CUDA_DEVICE_MAX_CONNECTIONS"),
        ("cudaErrorMpsClientTerminated", "terminate_client"),
        ("all CUDA-capable devices are busy or unavailable", "takes no further process (46)"),
        ("CUDA-capable device(s) is/are busy or unavailable", "takes no further process (46)"),
        ("cuCtxCreate: status 915", "no partition"),
        ("RuntimeError: No CUDA GPUs are available", "nvidia-smi -L"),
        ("invalid device ordinal", "nvidia-smi -L"),
        ("RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA", "launcher=interpreter"),
    ],
)
def test_table(text, says):
    """Each error of CUDA MPS, by its name, number or sentence, has its message."""
    assert says in (explain(text, MPS) or "")


@pytest.mark.parametrize(
    "text", ["ZeroDivisionError: division by zero", "out of memory", "step 805 of 900", "46 tests"]
)
def test_silent_about_everything_else(text):
    """What has nothing to do with sharing is not explained away; a number alone is no error code."""
    assert explain(text, MPS) is None


def test_server_state_is_told():
    """807 names the server's state."""
    state = MPS | {"servers": [{"pid": 77, "status": "FAULT"}]}
    assert "server 77 is FAULT" in explain("error 807", state)


def test_busy_in_exclusive_mode():
    """46 under time slicing in exclusive mode names the mode and the command."""
    state = {"mode": "time_slicing", "compute_mode": "exclusive_process"}
    assert "nvidia-smi -c DEFAULT" in explain("error 46", state)


def test_memory_limit():
    """Out of memory under a pinned memory limit names the limit; without one it says nothing."""
    text = "torch.OutOfMemoryError: CUDA out of memory"
    assert "MPS limit 2G" in explain(text, MPS | {"pinned_memory_limits": ["2G"]})
    assert explain(text, MPS) is None


@pytest.mark.parametrize(
    ("servers", "says"),
    [
        ([{"pid": 77, "status": "ACTIVE", "uid": 0}], "77 of uid 0"),
        ([{"pid": 77, "status": "INITIALIZING", "uid": 1000}], "not ACTIVE"),
        ([], "not ACTIVE"),
        ([{"pid": 77, "status": "ACTIVE", "uid": 1000}], None),
    ],
)
def test_hang(servers, says):
    """A missed deadline under MPS looks behind which server CUDA waits; with a healthy one it says nothing."""
    said = explain("no answer within 60 s (deadlines.start_s)", MPS | {"servers": servers})
    assert said is None if says is None else says in said
    assert explain("no answer within 60 s", {"mode": "time_slicing"}) is None


def test_without_state():
    """The table works for whoever has only the text."""
    assert "805" in explain("CUDA error 805")
