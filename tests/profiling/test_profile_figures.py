import numpy as np
import pytest

from mtexp.colours import model_colour
from mtexp.profiling import figures
from mtexp.profiling.cost_model import device_peaks
from mtexp.profiling.figures import busy_stretch, lanes, roofline, write_html
from mtexp.profiling.kernels import read_nsys_sqlite
from mtexp.profiling.ncu import CountedKernel
from mtexp.profiling.ncu_roofline import roofline_row
from mtexp.profiling.overlap import measure_overlap
from mtexp.spec import ModelSpec, TenantSpec

MS = 1_000_000
MODELS = ("bert_base", "distilgpt2", "llama_3_2_1b", "mistral_7b")


@pytest.fixture
def two(export):
    """Two tenants over a second; both run kernels at once only from 700 to 720 ms."""
    rows = [(0, MS, 7, 1), (999 * MS, 1000 * MS, 7, 1), (0, MS // 2, 9, 1), (999 * MS, 1000 * MS, 9, 1)]
    rows += [((700 + i) * MS, (701 + i) * MS, pid, 1) for i in range(20) for pid in (7, 9)]
    rows += [((300 + i) * MS, (301 + i) * MS, 7, 1) for i in range(30)]
    kernels = read_nsys_sqlite(export.write(rows, strings=[(1, "gemm")], processes=[(7, "bert"), (9, "llama")]))
    return kernels, measure_overlap(kernels)


def test_the_picture_shows_a_stretch_where_tenants_meet(two):
    """Not the start of the capture, where only set-up is to be seen."""
    begin, end = busy_stretch(*two, span_ms=40)
    assert end - begin == 40 * MS
    assert begin <= 700 * MS
    assert end >= 720 * MS


def test_a_lane_a_tenant_and_how_many_run_at_once(two):
    """A lane is a tenant, by its name: the colours of models would say what is not known here."""
    figure = lanes(*two, span_ms=40)
    first, second, level = figure.data
    assert (first.y[0], second.y[0]) == ("bert (7)", "llama (9)")
    assert first.marker.color != second.marker.color
    assert {first.marker.color, second.marker.color}.isdisjoint(map(model_colour, MODELS))
    assert len(first.x) == len(second.x) == 20
    assert set(first.customdata) == {"gemm"}
    assert max(level.y) == 2


def test_a_capture_with_very_many_kernels_shows_a_shorter_stretch(two, monkeypatch):
    """A browser has to move it."""
    monkeypatch.setattr(figures, "_MAX_BARS", 11)
    figure = lanes(*two, span_ms=40)
    assert 0 < sum(len(lane.x) for lane in figure.data[:2]) <= 11


def test_tenants_that_never_met_still_have_lanes(export):
    """One lane may be empty."""
    kernels = read_nsys_sqlite(export.write([(0, MS, 7, 1), (50 * MS, 51 * MS, 9, 1)]))
    figure = lanes(kernels, measure_overlap(kernels))
    assert [lane.y[0] for lane in figure.data[:2]] == ["pid (7)", "pid (9)"]


def test_the_html_needs_no_network(two, tmp_path):
    """It is opened from an artifact store, or from a laptop."""
    path = tmp_path / "lanes.html"
    write_html(lanes(*two, note="a note"), path)
    text = path.read_text()
    assert "a note" in text
    assert "cdn.plot.ly/plotly" not in text


def test_the_roof_bends_at_the_ridge_and_points_name_their_bound():
    """Shapes as well as colours tell what binds a model."""
    counters = {
        "gpu__time_duration.sum": 1e6,
        "dram__bytes_read.sum": 6e8,
        "sm__ops_path_tensor_src_fp16_dst_fp32.sum": 1.8e11,
    }
    peaks = device_peaks("NVIDIA H200")
    tenant = TenantSpec(id="t", model=ModelSpec(name="bert_base", role="stressor", architecture="sm"))
    row = roofline_row([CountedKernel("k", counters)], tenant, kernel_limit=9, peaks=peaks)
    figure = roofline([row], peaks, "fp16")
    roof, point = figure.data
    assert np.max(roof.y) == pytest.approx(989.4)
    assert (point.x[0], point.y[0]) == (300, 180)
    assert point.name == "bert_base: compute-bound; kernels: latency-bound"
    assert "bert_base: of its kernels" in figure.layout.annotations[-1].text
    assert point.marker.symbol == "square"
    assert point.marker.color == model_colour("bert_base")
