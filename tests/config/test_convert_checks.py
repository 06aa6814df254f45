"""What cannot be run is refused with key, value, what is allowed and the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtexp.config import compose_spec
from mtexp.errors import ConfigError
from mtexp.host import Device

GPU = Device("gpu", 0, "GPU-1", "NVIDIA H200", 143_771, 132)
SMALL = Device("gpu", 0, "GPU-2", "Small GPU", 8_192, 20)

REFUSED_ON_GPU = [
    ("workload.batch_size=0", "workload.batch_size", "1 or more"),
    ("workload.seq_len=-3", "workload.seq_len", "1 or more"),
    ("mix.tenants.a.batch_size=0", "mix.tenants.a.batch_size", "1 or more"),
    ("workload.seq_len=513", "workload.seq_len", "at most 512"),
    ("measure.iterations=0", "measure.iterations", "1 or more"),
    ("measure.warmup=-1", "measure.warmup", "0 or more"),
    ("measure.min_time_s=-1", "measure.min_time_s", "0 or more"),
    ("measure.percentiles=[99]", "measure.iterations", "at least 662"),
    ("measure.percentiles=[95]", "measure.iterations", "at least 130"),
    ("measure.percentiles=[100]", "measure.percentiles", "between 0 and 100"),
    ("measure.max_iterations=50", "measure.max_iterations", "at least 100"),
    ("repetitions=0", "repetitions", "1 or more"),
    ("retries=-1", "retries", "0 or more"),
    ("seed=-1", "seed", "0 or more"),
    ("sweep=../x", "sweep", "letters"),
    ("deadlines.build_s=0", "deadlines.build_s", "more than 0"),
    ("lease.wait=-1", "lease.wait", "0 or more"),
    ("sharing.sm_count=32", "sharing.sm_count", "sharing=green_contexts"),
    ("mix.tenants.a.sm_count=32", "mix.tenants.a.sm_count", "sharing=green_contexts"),
    ("sharing=green_contexts|mps_settings=default", "mps_settings", "disabled with sharing=green_contexts"),
    ("sharing=green_contexts|sharing.sm_count=12", "mix.tenants.a.sm_count", "a multiple of 8"),
    ("sharing=green_contexts|sharing.sm_count=80", "sharing", "at most 128 of the 132"),
    ("sharing=green_contexts|mix.tenants.a.sm_count=-8", "mix.tenants.a.sm_count", "1 to 1024"),
    ("sharing=green_contexts|mix.tenants.a.sm_pct=101", "mix.tenants.a.sm_pct", "0.1 to 100"),
    ("sharing=green_contexts|mix.tenants.a.sm_pct=50|mix.tenants.a.sm_count=64", "mix.tenants.a.sm_pct", "sm_count"),
    ("sharing=green_contexts|profiler=torch", "profiler", "none, nsys, ncu"),
    ("rerun_invalid=true", "rerun_invalid", "false without resume"),
    ("telemetry.period_s=0", "telemetry.period_s", "0.001 or more"),
    ("telemetry.gpm_period_s=0.1", "telemetry.gpm_period_s", "0.2 or more"),
    ("tracking.max_history=0", "tracking.max_history", "1 or more"),
    ("tracking.experiment=''", "tracking.experiment", "a name"),
    ("workload=decode", "workload", "forward, train"),
    ("mix.tenants.a.workload=generate", "mix.tenants.a.workload", "forward, train"),
    ("mix.tenants.a.count=0", "mix.tenants.a.count", "1 or more"),
    ("mps_settings.active_thread_pct=30", "mps_settings.active_thread_pct", "mps_settings=disabled"),
    ("mix.tenants.a.priority=1", "mix.tenants.a.priority", "mps_settings=disabled"),
    ("mps_settings=0pct", "mps_settings", "above 0"),
    ("mps_settings=0.0pct", "mps_settings", "above 0"),
    ("mps_settings=half|mps_settings.active_thread_pct=0", "mps_settings", "above 0"),
    ("mps_settings=half|mix.tenants.a.active_thread_pct=0", "mix.tenants.a.active_thread_pct", "above 0"),
    ("mps_settings=10pct|mix.tenants.a.active_thread_pct=101", "mix.tenants.a.active_thread_pct", "0 to 100"),
    ("mps_settings=120pct", "mps_settings.active_thread_pct", "0 to 100"),
    ("mps_settings=default|mps_settings.priority=2", "mps_settings.priority", "0 to 1"),
    ("mps_settings=default|mps_settings.pinned_memory_limit=1.5G", "mps_settings.pinned_memory_limit", "G or M"),
    ("mps_settings=default|mps_settings.pinned_memory_limit=64M", "pinned_memory_limit", "MiB"),
    ("mps_settings=default|mps_settings.pipe_directory=/x", "mps_settings.pipe_directory", "external"),
    ("mps_settings.static_partitioning=true", "mps_settings.static_partitioning", "false"),
    ("mps_settings=half|mps_settings.static_partitioning=true", "mps_settings.active_thread_pct", "static"),
    ("sharing=streams|mps_settings=half", "mps_settings", "disabled with sharing=streams"),
    ("sharing=mig|mps_settings=default", "mps_settings", "disabled with sharing=mig"),
    ("sharing=streams|profiler=torch", "profiler", "none, nsys, ncu with sharing=streams"),
    ("profiler=nsys|profiler.iterations=1001", "profiler.iterations", "1 to 1000"),
    ("profiler.iterations=0", "profiler.iterations", "1 to 1000"),
    ("mix=enc_only|attn_implementation=sdpa", "attn_implementation", "eager"),
    ("arrival=poisson|arrival.load=0", "arrival.rate", "a rate or a load"),
    ("arrival=poisson|arrival.rate=-1", "arrival.rate", "0 or more"),
    ("arrival.rate=3", "arrival.rate", "arrival=closed"),
    ("arrival=poisson|baseline=skip", "arrival.load", "baseline=skip"),
    ("runtime.device=GPU-9", "runtime.device", "GPU-1"),
    (
        "mix=stress_sm|mix.tenants.stress_sm.architecture=my_script",
        "mix.tenants.stress_sm.architecture",
        "sm, dram, l2, pcie, launch",
    ),
    ("mix.tenants.a.architecture=my_package.MyNet", "mix.tenants.a.architecture", "one of the"),
    ("mix.tenants.a.shape.num_attention_heads=7", "mix.tenants.a.shape", "divides 768"),
    ("mix.tenants.b.shape.num_key_value_heads=5", "mix.tenants.b.shape", "divides 32"),
    ("mix.tenants.a.shape.hidden_size=0", "mix.tenants.a.shape", "positive"),
    ("weights=pretrained|mix.tenants.a.source=./nowhere", "mix.tenants.a.source", "local folder"),
    ("weights=pretrained|mix.tenants.a.hub=''", "mix.tenants.a.source", "hub id"),
    ("tracking.uri=http://me:secret@host/", "tracking.uri", "without user and password"),
    (
        "measure.until_ci_pct=2|measure.until_ci_statistic=p99|measure.max_iterations=200",
        "measure.max_iterations",
        "662",
    ),
    ("runtime=cpu|runtime.device=GPU-1", "runtime.device", "no devices to choose from"),
]


@pytest.mark.parametrize(("overrides", "key", "allowed"), REFUSED_ON_GPU)
def test_what_cannot_run_is_refused(overrides: str, key: str, allowed: str) -> None:
    """The message begins with the key at fault and says what would have been accepted and what to do."""
    with pytest.raises(ConfigError) as refused:
        compose_spec(overrides.split("|"), GPU)
    assert refused.value.key == key
    assert allowed in refused.value.allowed
    assert refused.value.remedy.strip()


@pytest.mark.parametrize(
    "setting", ["telemetry.period_s=0.001", "telemetry.gpm_period_s=0.2", "measure.warmup=0", "measure.iterations=1"]
)
def test_the_least_that_is_allowed_is_what_the_remedy_says(setting: str) -> None:
    """Whoever does what the message says is not refused again, and is not sent further than needed."""
    key, _, least = setting.partition("=")
    with pytest.raises(ConfigError) as refused:
        compose_spec([f"{key}={float(least) - 1:g}"], GPU)
    assert f"Set {setting} or higher" in refused.value.remedy
    assert compose_spec([setting], GPU)


REFUSED_ON_CPU = [
    ("runtime=gpu", "runtime", "no GPU was found"),
    ("execution=cuda_graph", "execution", "eager, compile"),
    ("precision=tf32", "precision", "fp16, bf16, fp32"),
    ("sharing=mig", "sharing", "processes, streams"),
    ("profiler=nsys", "profiler", "torch"),
    ("mix=mistral_7b*4|runtime.shrink=none|precision=fp32", "mix", "what fits"),
]


@pytest.mark.parametrize(("overrides", "key", "allowed"), REFUSED_ON_CPU)
def test_what_a_cpu_cannot_do_is_refused(overrides: str, key: str, allowed: str) -> None:
    """GPU-only settings are errors with a remedy on a host without one, never ignored."""
    with pytest.raises(ConfigError) as refused:
        compose_spec(overrides.split("|"), Device("cpu", 0, "cpu", "a CPU", 24_000))
    assert refused.value.key == key
    assert allowed in refused.value.allowed


SECRET_URIS = [
    ("http://me:hunter2@host/", "MLFLOW_TRACKING_USERNAME"),
    ("http://hunter2@host/", "MLFLOW_TRACKING_USERNAME"),
    ("http://u:pa/hunter2@127.0.0.1:9/", "%2F"),
    ("http://u:80/hunter2@127.0.0.1:9/", "%2F"),
    ("http://host/?token=hunter2", "MLFLOW_TRACKING_TOKEN"),
    ("postgresql+psycopg://me:hunter2@host/db", "PGPASSWORD"),
    ("postgresql+psycopg://host/db?password=hunter2", "MLFLOW_TRACKING_URI"),
]


@pytest.mark.parametrize(("uri", "remedy"), SECRET_URIS)
def test_a_secret_in_the_uri_is_refused_and_not_repeated(uri: str, remedy: str) -> None:
    """Whichever part of it holds one; the message says where a secret belongs instead."""
    with pytest.raises(ConfigError) as refused:
        compose_spec([f"tracking.uri='{uri}'"], GPU)
    assert "hunter2" not in str(refused.value)
    assert remedy in str(refused.value)


@pytest.mark.parametrize("uri", ["postgresql+psycopg://mlflow@db-host/mlflow", "sqlite:///a.db?timeout=9"])
def test_a_uri_without_a_secret_is_kept_as_it_is(uri: str) -> None:
    """The user of a database is none: PostgreSQL finds the password itself."""
    assert compose_spec([f"tracking.uri='{uri}'"], GPU).tracking.uri == uri


def test_a_model_that_does_not_fit_is_refused_with_sizes() -> None:
    """Mistral 7B in fp16 needs about 14 GiB, an 8 GiB device is named; the same fits the large one."""
    with pytest.raises(ConfigError, match=r"mistral_7b.*8192 MiB of Small GPU"):
        compose_spec(["mix=mistral_7b"], SMALL)
    assert compose_spec(["mix=mistral_7b"], GPU).tenants


def test_streams_pay_for_one_context() -> None:
    """Fourteen small tenants fit into 8 GiB as streams of one process, not as processes."""
    with pytest.raises(ConfigError):
        compose_spec(["mix=bert_base*15"], SMALL)
    assert compose_spec(["mix=bert_base*15", "sharing=streams"], SMALL).tenants


def test_auto_means_the_gpu_where_there_is_one() -> None:
    """Models keep their shape on the GPU and shrink on the CPU, unless forbidden or asked for."""
    assert not compose_spec([], GPU).shrunk
    assert compose_spec([], None).shrunk
    assert not compose_spec(["mix=distilgpt2", "runtime.shrink=none"], None).shrunk
    assert compose_spec(["runtime.shrink=always"], GPU).shrunk
    assert compose_spec(["runtime=cpu"], GPU).runtime == "cpu"


def test_a_device_is_named_by_uuid_or_index() -> None:
    """An index is turned into the UUID that everything else uses; without one any device may be leased."""
    assert (
        compose_spec(["runtime.device=0"], GPU).device == compose_spec(["runtime.device=GPU-1"], GPU).device == "GPU-1"
    )
    assert compose_spec([], GPU).device == ""


def test_demanded_percentiles_with_enough_iterations_are_accepted() -> None:
    """662 iterations support p99."""
    spec = compose_spec(["measure.percentiles=[50,99]", "measure.iterations=662"], GPU)
    assert spec.measure.percentiles == (50, 99)


def test_tracking_on_a_server_needs_to_know_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """tracking=server takes the URI from the command line or the environment, and says so when there is none."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        compose_spec(["tracking=server"], GPU)
    assert compose_spec(["tracking=server", "tracking.uri=http://host:5000"], GPU).tracking.uri == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    assert compose_spec(["tracking=server"], GPU).tracking.uri == "", "a URI with credentials stays in the environment"


def test_a_local_folder_of_weights_gives_its_own_shape(tmp_path: Path) -> None:
    """Pretrained weights in a folder are counted and checked by the config.json beside them."""
    shape = {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "vocab_size": 100,
        "n_positions": 200,
        "n_inner": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    overrides = ["mix=distilgpt2", "weights=pretrained", f"mix.tenants.distilgpt2.source={tmp_path}"]
    with pytest.raises(ConfigError, match="safetensors"):
        compose_spec(overrides, None)
    header = json.dumps({"h.1.ln_1.bias": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    spec = compose_spec(overrides, None)
    assert spec.tenants[0].model.shape["n_embd"] == 32
    assert spec.tenants[0].model.parameters == 35_072
    assert not spec.shrunk
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        compose_spec(overrides, None)


def test_a_hub_id_is_the_models_own_unless_given() -> None:
    """weights=pretrained takes the id of conf/models."""
    spec = compose_spec(["mix=distilgpt2", "weights=pretrained"], GPU)
    assert spec.tenants[0].model.source == "distilbert/distilgpt2"
