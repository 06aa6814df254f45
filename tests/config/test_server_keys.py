"""Servers in a configuration: the command and its requests, what names them, and what is refused in the plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mtexp.config import Composer, compose_spec, to_spec
from mtexp.config.composer import to_config
from mtexp.config.hardware import hardware_of
from mtexp.config.plan import plan
from mtexp.config.problems import Refused
from mtexp.errors import ConfigError
from mtexp.served import body_bytes, fill
from mtexp.spec import RunSpec, from_json, spec_hash, to_json
from mtexp.tracking.ledger import baseline_hash

COMMAND = "{python} server.py --port {port}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a server's script, which is the current one."""
    (tmp_path / "server.py").write_text("import numpy\n")
    (tmp_path / "conf" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(here: Path, server: str, *more: str) -> RunSpec:
    (here / "conf" / "models" / "mine.yaml").write_text(f"name: mine\nserver: {{{server}}}\n")
    made = plan(["--config-dir", "conf", "mix=mine", "baseline=skip", "runtime=cpu", "tracking=none", *more])
    assert any("servers of mine are started" in note and str(here) in note for note in made.notes)
    return made.points[0].spec


def test_a_server_is_named_by_its_command_files_and_packages(here: Path) -> None:
    """Another source is another baseline; how long it may take to be ready, and where it lies, is not."""
    text = f'command: "{COMMAND}", request: {{url: /embed, json: {{text: "{{text}}"}}}}'
    first, patient = planned(here, text), planned(here, f"{text}, ready: /health, ready_s: 9")
    (tenant,) = first.tenants
    assert tenant.model.server is not None
    assert tenant.model.server.url == "http://127.0.0.1:{port}/embed"
    assert (tenant.model.role, tenant.workload.batch_size, first.start_order) == ("server", 1, ("mine",))
    assert list(tenant.model.code["packages"]) == ["numpy"]
    assert "server.py" in tenant.model.code["files"]
    (here / "server.py").write_text("import numpy\nx = 1\n")
    changed, other = planned(here, text), planned(here, f"{text}, concurrency: 2")
    hashes = [baseline_hash(spec.tenants[0], spec, {}) for spec in (first, patient, changed, other)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    moved = replace(tenant, model=replace(tenant.model, code_path="/elsewhere"))
    assert spec_hash(first) == spec_hash(replace(first, tenants=(moved,))) != spec_hash(changed)
    assert from_json(RunSpec, to_json(first)) == first


def test_an_api_of_openai_generates_and_is_streamed(here: Path) -> None:
    """Its fields can be replaced and added to."""
    text = f'command: "{COMMAND}", request: {{api: completions, model: m, json: {{ignore_eos: true}}}}'
    (tenant,) = planned(here, text, "workload.new_tokens=5").tenants
    server = tenant.model.server
    assert server is not None
    assert (server.stream, tenant.workload.kind, server.url) == (
        True,
        "generate",
        "http://127.0.0.1:{port}/v1/completions",
    )
    body = json.loads(body_bytes(server.body, {"text": "a b", "new_tokens": 5}))
    assert body == {
        "model": "m",
        "prompt": "a b",
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }


def test_placeholders_keep_their_type_and_doubled_braces_are_braces() -> None:
    """A text that is one placeholder becomes a number or a list."""
    body = json.dumps({"n": "{seq_len}", "t": ["{texts}"], "say": "{{x}} of {seq_len}"})
    filled = json.loads(body_bytes(body, {"seq_len": 3, "texts": ["a", "b"]}))
    assert filled == {"n": 3, "t": [["a", "b"]], "say": "{x} of 3"}
    assert fill("--port={port}", {"port": 7}) == "--port=7"


R = "request: {url: /x}"


def converted(server: str, *more: str) -> RunSpec:
    """A server given as in a file of models, without composing one."""
    composed, _ = Composer().load(["mix=server:mine", "baseline=skip", "runtime=cpu", *more])
    OmegaConf.set_struct(composed, False)
    made = OmegaConf.merge(composed, {"mix": {"tenants": {"mine": {"server": yaml.safe_load(f"{{{server}}}")}}}})
    return to_spec(to_config(made), hardware_of(None))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (R, "server.command="),
        (f'command: "no-such-program --port {{port}}", {R}', "not on PATH"),
        (f'command: "python \\"x", {R}', "quot"),
        (f'command: "{COMMAND}"', "request.url="),
        (f'command: "{COMMAND}", request: {{url: "http://10.0.0.1:80/x"}}', "allow_remote=true"),
        (f'command: "{COMMAND}", ready: "http://example.org/", {R}', "allow_remote=true"),
        (f'command: "{COMMAND}", request: {{url: "http://u:p@127.0.0.1:80/x"}}', "without user"),
        (f'command: "{COMMAND}", request: {{url: "http://127.0.0.1:x/y"}}', "HOST:PORT"),
        (f'command: "python server.py", {R}', "no {port}"),
        (f'command: "{COMMAND}", request: {{url: /x, json: {{a: "{{txt}}"}}}}', "Did you mean text"),
        (f'command: "{COMMAND} {{prt}}", {R}', "Did you mean port"),
        (f'command: "{COMMAND}", request: {{url: "/{{text}}"}}', "placeholders"),
        (f'command: "{COMMAND}", ready: "(", {R}', "regular expression"),
        (f'command: "{COMMAND}", request: {{url: /x, method: DELETE}}', "GET, POST, PUT"),
        (f'command: "{COMMAND}", {R}, concurrency: -1', "concurrency=-1"),
        (f'command: "{COMMAND}", {R}, cores: 0', "cores=0"),
    ],
)
def test_what_cannot_be_is_refused(here: Path, text: str, why: str) -> None:
    """With the key, what is allowed and what to do."""
    with pytest.raises(ConfigError, match=why):
        converted(text)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("sharing=streams", "processes or mig"),
        ("profiler=torch", "none with"),
        ("mix.tenants.mine.workload=train", "forward, generate"),
        ("mix.tenants.mine.batch_size=4", "one text"),
        ("mix.start_order=[nobody]", "each server of the mix once"),
        ("+mix.tenants.mine.shape.x=1", "a server has no shape"),
    ],
)
def test_what_does_not_go_with_a_server_is_refused(here: Path, more: str, why: str) -> None:
    """Sharing modes of one process, profilers, workloads that it cannot know."""
    with pytest.raises(ConfigError, match=why):
        converted(f'command: "{COMMAND}", {R}', more)


def test_two_servers_of_one_port_are_refused_and_an_order_is_kept(here: Path) -> None:
    """One with a port of its own cannot be there twice; the order is the mix's, or what is asked for."""
    fixed = 'command: "python server.py", request: {url: "http://127.0.0.1:8123/x"}'
    with pytest.raises((Refused, ConfigError), match="has this port"):
        planned(here, fixed, "mix.tenants.mine.count=2")
    free = f'command: "{COMMAND}", {R}'
    assert planned(here, free, "mix.tenants.mine.count=2").start_order == ("mine_0", "mine_1")
    asked = planned(here, free, "mix.tenants.mine.count=2", "mix.start_order=[mine_1,mine_0]")
    assert asked.start_order == ("mine_1", "mine_0")


def test_a_server_can_be_given_on_the_command_line(here: Path) -> None:
    """Beside a model, without a file of its own."""
    spec = compose_spec(
        [
            "mix=bert_base+server:s",
            f"mix.tenants.s.server.command='{COMMAND}'",
            "mix.tenants.s.server.request.url=/x",
            "+mix.tenants.s.server.request.json={text: '{text}'}",
            "runtime=cpu",
        ]
    )
    assert [tenant.model.role for tenant in spec.tenants] == ["encoder", "server"]
    assert spec.mix == "bert_base+s"


def test_the_examples_of_the_documentation_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """From their folder."""
    examples = Path(__file__).parents[2] / "docs" / "examples"
    monkeypatch.chdir(examples)
    made = plan(
        ["--config-dir", "conf", "mix=bert_own+bert_http+chat_http", "baseline=skip", "runtime=cpu", "tracking=none"]
    )
    served = {tenant.id: tenant.model for tenant in made.points[0].spec.tenants if tenant.model.server is not None}
    assert set(served) == {"bert_http", "chat_http"}
    assert "bert_server.py" in served["bert_http"].code["files"]
