"""Columns of a tenant's samples and what is derived from them."""

from dataclasses import replace

import numpy as np
import pytest

from mtexp.metrics.samples import Samples
from tests.strategies import MS, closed_loop, open_loop


def test_open_loop_latency_counts_from_the_intended_arrival() -> None:
    """A request that queued pays for the queue in its latency; queue and service are its parts."""
    samples = open_loop([0, 1, 2], service_ms=10)
    assert samples.open_loop
    assert samples.latency_ms == pytest.approx([10.001, 19.001, 28.001])
    assert samples.queue_ms == pytest.approx([0.001, 9.001, 18.001])
    assert samples.service_ms == pytest.approx([10, 10, 10])


def test_wait_is_latency_less_gpu_time_and_absent_without_one() -> None:
    """An iteration without gpu time has no wait: NaN, never the whole latency."""
    samples = closed_loop([5, 6], gpu_ms=2)
    assert samples.wait_ms.tolist() == [3, 4]
    gone = replace(samples, gpu_time_ns=np.array([-1, 2 * MS]))
    assert np.isnan(gone.gpu_time_ms[0])
    assert np.isnan(gone.wait_ms[0])
    assert gone.wait_ms[1] == 4


def test_token_times_are_absent_where_there_is_no_first_token() -> None:
    """Time to first token and per output token exist for generating requests only."""
    samples = closed_loop([50, 50])
    assert np.isnan(samples.ttft_ms).all()
    assert np.isnan(samples.tpot_ms(5)).all()
    generated = replace(samples, first_token_ns=samples.start_ns + 10 * MS)
    assert generated.ttft_ms.tolist() == [10, 10]
    assert generated.tpot_ms(5).tolist() == [10, 10]
    assert np.isnan(generated.tpot_ms(1)).all()


def test_measured_leaves_out_the_warm_up() -> None:
    """The iterations before the barrier are kept in the samples and out of the measured view."""
    samples = closed_loop([9, 9, 1, 2, 3], warmup=2)
    assert samples.measured.latency_ms.tolist() == [1, 2, 3]
    assert len(samples) == 5
    assert not samples.open_loop


def test_columns_of_unequal_length_are_refused() -> None:
    """A torn buffer is an error that names the lengths, not a wrong statistic."""
    samples = closed_loop([1, 2])
    with pytest.raises(ValueError, match="equal length"):
        replace(samples, end_ns=samples.end_ns[:1])
    flat = np.zeros((2, 2), dtype=np.int64)
    with pytest.raises(ValueError, match="one-dimensional"):
        Samples(flat.astype(np.uint8), flat, flat, flat, flat, flat)
