"""The picture that MLflow shows of a run."""

import numpy as np
import pytest
from matplotlib.image import imread

from mtexp.colours import shades
from mtexp.metrics.samples import Samples
from mtexp.records.picture import draw_run, write_latency_plot
from mtexp.testing.records import stored

MS = 1_000_000


def _samples(latency_ms: float, count: int = 50) -> Samples:
    start = np.arange(count, dtype=np.int64) * round(latency_ms * MS) + 7
    none = np.zeros(count, dtype=np.int64)
    return Samples(
        phase=np.ones(count, dtype=np.uint8),
        arrival_ns=start,
        start_ns=start,
        end_ns=start + round(latency_ms * MS),
        first_token_ns=none,
        gpu_time_ns=none - 1,
    )


@pytest.mark.parametrize("window", [None, {"t0_ns": 7, "t1_ns": 100 * MS}])
@pytest.mark.parametrize("tenants", [0, 2, 48])
def test_every_run_gets_a_picture(tmp_path, tenants, window):
    """Also a run of no tenant that measured, of many, and without a window; and it is not blank where there is data."""
    models = {f"t{n}": "bert_base" for n in range(tenants)}
    path = write_latency_plot(tmp_path, {tenant: _samples(1 + n) for n, tenant in enumerate(models)}, models, window)

    picture = imread(path)
    assert path == tmp_path / "plots" / "latency.png"
    coloured = np.ptp(picture[..., :3], axis=2).max()
    assert (coloured > 0.3) == (tenants > 0)


def test_a_tenant_that_measured_nothing_does_not_spoil_it(tmp_path):
    """A tenant that failed before its first iteration leaves the others in the picture."""
    models = {"a": "bert_base", "b": "bert_base"}
    assert write_latency_plot(tmp_path, {"a": _samples(2.0), "b": _samples(2.0, 0)}, models, None).is_file()


def test_a_tenant_has_the_colour_of_its_model(tmp_path):
    """As in the report: whichever tenant is first, and darker for the second of a model."""
    models = {"a": "llama_3_2_1b", "b": "bert_base", "c": "bert_base"}
    picture = imread(write_latency_plot(tmp_path, {tenant: _samples(2.0) for tenant in models}, models, None))
    seen = {tuple(pixel) for pixel in np.round(255 * picture[..., :3]).astype(int).reshape(-1, 3)}
    for colour in shades(list(models.values())):
        assert tuple(bytes.fromhex(colour[1:])) in seen, colour


def test_a_picture_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    """The run goes on to MLflow without it."""
    stored(tmp_path)
    (tmp_path / "plots").write_text("a file where the folder should be")
    draw_run(tmp_path)
    assert "No picture of the run" in caplog.text
